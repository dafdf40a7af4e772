-- Could we take the lease, and if not, how long is it held? No row: this pipeline has none yet.
--
-- {schema}: quoted name
-- $1: pipeline; $2: shard; $3: owner
select
    owner is null or owner = $3 or expires_at < clock_timestamp() as free,
    -- Held by nobody, it may have expired in no year that could be subtracted from.
    case
        when owner is null then 0
        else greatest(extract(epoch from expires_at - clock_timestamp()), 0)
    end::float8 as expires_in_seconds
from {schema}.lease
where pipeline = $1 and shard = $2;
