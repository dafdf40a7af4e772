-- Deletes delivered rows and answers how many.
--
-- {table} {id}: quoted names; {pending}: predicate on o
-- {chosen}: an array of ids: those of $1, or those of them that nobody else has locked
with marked as (
    delete from {table} as o
    where o.{id} = any({chosen}) and {pending}
    returning 1
)

select count(*) from marked;
