-- Where did the pipeline begin under another table or mark, most lately? No row: nowhere.
--
-- {schema}: quoted name
-- $1: pipeline; $2: outbox
select
    outbox,
    to_char(started_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') as started,
    start_after is not null as left_rows_out
from {schema}.pipeline
where pipeline = $1 and outbox <> $2 and started_at is not null
order by started_at desc
limit 1;
