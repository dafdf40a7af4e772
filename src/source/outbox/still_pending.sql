-- Which of these rows are pending although they were just marked?
--
-- {table} {id}: quoted names; {pending}: predicate on o; {returned}: the id as it is read
-- {ids}: $1, the ids, as an array of the id column's type
select {returned}
from {table} as o
where o.{id} = any({ids}) and {pending};
