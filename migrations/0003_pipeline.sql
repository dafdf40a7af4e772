-- Where each pipeline began. Old relays may keep running: they do not ask.
--
-- {schema}: quoted name
create table if not exists {schema}.pipeline (
    pipeline text not null,
    -- The table, and what marks its rows: history under another of either was never looked at.
    outbox text not null,
    first_look_at timestamptz not null default clock_timestamp(),
    -- The highest pending position then; what "now" is counted from.
    first_look_highest bigint,
    -- Null while the pipeline holds and asks where to begin.
    started_at timestamptz,
    -- all, now or after:<position>
    start text,
    -- Rows at or below this position are not the pipeline's.
    start_after bigint,
    primary key (pipeline, outbox),
    check (pipeline ~ '^[a-z0-9_]+$' and length(pipeline) <= 40),
    check ((started_at is null) = (start is null)),
    check (started_at is not null or start_after is null)
);
