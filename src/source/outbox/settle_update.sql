-- Marks rows delivered. Only pending ones, so that a repeat writes nothing. Answers how many are marked
-- now, as they were written: a trigger may have taken the mark back.
--
-- {table} {id} {column}: quoted names; {value}: what a delivered row holds
-- {pending}: predicate on o
-- {chosen}: an array of ids: those of $1, or those of them that nobody else has locked
with marked as (
    update {table} as o
    set {column} = {value}
    where o.{id} = any({chosen}) and {pending}
    returning {pending} as is_pending
)

select count(*) filter (where is_pending is not true) from marked;
