-- The columns of the application's table, with what we may do to them, and the sequence behind each.
--
-- $1: oid of the table
select
    a.attname::text as name,
    format_type(a.atttypid, a.atttypmod) as type,
    coalesce(nullif(t.typbasetype, 0), t.oid) as base_type,
    a.attnotnull as not_null,
    has_column_privilege(a.attrelid, a.attnum, 'select') as readable,
    has_column_privilege(a.attrelid, a.attnum, 'update') as writable,
    s.name as sequence,
    s.cache as sequence_cache
from pg_catalog.pg_attribute as a
inner join pg_catalog.pg_type as t on t.oid = a.atttypid
left join lateral (
    -- Owned by the column (identity, serial, "owned by"), or used by its default.
    select format('%I.%I', n.nspname, c.relname) as name, q.seqcache as cache
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_sequence as q on q.seqrelid in (d.objid, d.refobjid)
    inner join pg_catalog.pg_class as c on c.oid = q.seqrelid
    inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    left join pg_catalog.pg_attrdef as f on f.oid = d.objid and d.classid = 'pg_catalog.pg_attrdef'::regclass
    where
        (d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.objid = q.seqrelid)
        or (f.adrelid = a.attrelid and f.adnum = a.attnum and d.refobjid = q.seqrelid)
    order by q.seqcache desc
    limit 1
) as s on true
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
order by a.attnum;
