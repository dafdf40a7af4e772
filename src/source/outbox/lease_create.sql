-- The row of a new pipeline, held by nobody.
--
-- {schema}: quoted name
-- $1: pipeline; $2: shard
insert into {schema}.lease (pipeline, shard) values ($1, $2)
on conflict do nothing;
