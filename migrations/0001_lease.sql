-- The lease: who may publish. Old relays may keep running: nothing they use changes.
--
-- {schema}: quoted name
create table if not exists {schema}.lease (
    pipeline text not null,
    shard integer not null default 0,
    -- A process, not a host: two relays of one pod overlap in a rolling deployment.
    owner uuid,
    -- Grows each time the lease changes hands.
    epoch bigint not null default 0,
    -- By the database's clock.
    expires_at timestamptz not null default '-infinity',
    primary key (pipeline, shard),
    check (pipeline ~ '^[a-z0-9_]+$' and length(pipeline) <= 40),
    check (shard >= 0),
    check (epoch >= 0)
);
