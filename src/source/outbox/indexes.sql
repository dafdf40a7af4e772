-- The indexes of the application's table, as far as they tell its rows apart or find the pending ones.
--
-- $1: oid of the table
select
    i.indisunique and i.indimmediate and i.indpred is null and i.indexprs is null as tells_apart,
    array(
        select a.attname::text
        from unnest(i.indkey::smallint []) with ordinality as k (attnum, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.place <= i.indnkeyatts
        order by k.place
    ) as columns,
    coalesce(pg_get_expr(i.indpred, i.indrelid), '') as predicate
from pg_catalog.pg_index as i
where i.indrelid = $1 and i.indisvalid and i.indisready;
