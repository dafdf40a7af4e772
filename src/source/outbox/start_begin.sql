-- The pipeline begins, once: of two relays that say so, the first is believed.
--
-- {schema}: quoted name
-- $1: pipeline; $2: outbox; $3: highest pending position; $4: start; $5: rows at or below are not ours
insert into {schema}.pipeline as known (pipeline, outbox, first_look_highest, started_at, start, start_after)
values ($1, $2, $3, clock_timestamp(), $4, $5)
on conflict (pipeline, outbox) do update
set
    started_at = excluded.started_at,
    start = excluded.start,
    start_after = case
        when excluded.start = 'now' then coalesce(known.first_look_highest, excluded.start_after)
        else excluded.start_after
    end
where known.started_at is null;
