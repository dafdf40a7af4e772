-- Which of these rows may be marked without waiting for anybody?
--
-- {table} {id}: quoted names; {pending}: predicate on o
-- {ids}: $1, the ids, as an array of the id column's type
select o.{id}
from {table} as o
where o.{id} = any({ids}) and {pending}
for update skip locked;
