-- How many pending rows does the pipeline leave out? Counted up to a limit.
--
-- {table}: quoted name; {unmarked}: predicate on o; {position}: expression on o
-- $1: rows at or below are not ours; $2: count at most this many
select count(*)
from (
    select 1 from {table} as o
    where {unmarked} and {position} <= $1
    order by {position}
    limit $2
) as left_out;
