-- Marks rows delivered. Only pending ones, so that a repeat writes nothing.
--
-- {table} {id} {column}: quoted names; {value}: what a delivered row holds
-- {pending}: predicate on o; {returned}: the id as it is read
-- {ids}: $1, the ids, as an array of the id column's type
update {table} as o
set {column} = {value}
where o.{id} = any({ids}) and {pending}
returning {returned};
