-- Could we take the lease? No row: this pipeline has none yet.
--
-- {schema}: quoted name
-- $1: pipeline; $2: shard; $3: owner
select owner is null or owner = $3 or expires_at < clock_timestamp() as free
from {schema}.lease
where pipeline = $1 and shard = $2;
