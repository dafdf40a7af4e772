-- The highest position in the table, delivered or not, and whether that row is younger than the pipeline.
--
-- {schema} {table}: quoted names; {position} {created_at}: expressions on o
-- $1: pipeline; $2: outbox
select
    {position}::bigint,
    {created_at} > (select known.started_at from {schema}.pipeline as known where pipeline = $1 and outbox = $2)
from {table} as o
order by {position} desc
limit 1;
