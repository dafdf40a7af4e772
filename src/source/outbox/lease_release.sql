-- Gives the lease back, if it is ours.
--
-- {schema}: quoted name
-- $1: pipeline; $2: shard; $3: owner
update {schema}.lease
set owner = null, expires_at = clock_timestamp()
where pipeline = $1 and shard = $2 and owner = $3;
