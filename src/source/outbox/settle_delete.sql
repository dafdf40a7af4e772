-- Deletes delivered rows.
--
-- {table} {id}: quoted names; {pending}: predicate on o; {returned}: the id as it is read
-- {ids}: $1, the ids, as an array of the id column's type
delete from {table} as o
where o.{id} = any({ids}) and {pending}
returning {returned};
