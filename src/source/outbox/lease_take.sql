-- Takes the lease if it is free, renews it if it is ours. The epoch grows when it changes hands.
--
-- The conditions are evaluated again after a wait for the row's lock, so one of two takers wins.
-- {schema}: quoted name
-- $1: pipeline; $2: shard; $3: owner; $4: seconds until it expires
update {schema}.lease
set
    owner = $3,
    epoch = epoch + case when owner = $3 then 0 else 1 end,
    expires_at = clock_timestamp() + make_interval(secs => $4)
where
    pipeline = $1 and shard = $2
    and (owner = $3 or owner is null or expires_at < clock_timestamp())
returning epoch;
