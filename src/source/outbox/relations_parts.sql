-- A table and all that inherits from it: what an insert may lock.
--
-- {oid}: of the table
with recursive part (oid) as (
    select {oid}
    union all
    select i.inhrelid from pg_catalog.pg_inherits as i inner join part on part.oid = i.inhparent
)

select part.oid from part
