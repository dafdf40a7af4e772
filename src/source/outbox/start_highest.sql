-- The highest position in the table, delivered or not.
--
-- {table}: quoted name; {position}: expression on o
select max({position})::bigint
from {table} as o;
