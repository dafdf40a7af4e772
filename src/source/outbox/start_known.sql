-- Where did the pipeline begin? No row: it never looked.
--
-- {schema}: quoted name
-- $1: pipeline; $2: outbox
select
    first_look_highest,
    to_char(started_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') as started,
    start,
    start_after
from {schema}.pipeline
where pipeline = $1 and outbox = $2;
