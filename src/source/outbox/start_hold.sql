-- Remembers a first look. What was seen first stays.
--
-- {schema}: quoted name
-- $1: pipeline; $2: outbox; $3: highest pending position
insert into {schema}.pipeline as known (pipeline, outbox, first_look_highest) values ($1, $2, $3)
on conflict (pipeline, outbox) do update
set first_look_highest = excluded.first_look_highest
where known.started_at is null and known.first_look_highest is null;
