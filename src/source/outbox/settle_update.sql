-- Marks rows delivered. Only pending ones, so that a repeat writes nothing.
--
-- {table} {id} {column}: quoted names; {value}: what a delivered row holds
-- {pending}: predicate on o
-- {chosen}: an array of ids: those of $1, or those of them that nobody else has locked
update {table} as o
set {column} = {value}
where o.{id} = any({chosen}) and {pending};
