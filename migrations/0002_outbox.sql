-- The default outbox, for applications that have none. Old relays may keep running: they use another
-- table or none.
--
-- `json` keeps the payload as it was written, byte for byte; jsonb would not.
create schema if not exists outbox;

create table if not exists outbox.message (
    -- The order in which messages are published. One value at a time: see "cache" in the guide.
    id bigint generated always as identity primary key,
    message_id uuid not null default gen_random_uuid(),
    destination text,
    key text,
    kind text not null,
    payload json,
    headers jsonb,
    created_at timestamptz not null default clock_timestamp(),
    due_at timestamptz,
    expires_at timestamptz,
    delivered_at timestamptz,
    check (headers is null or jsonb_typeof(headers) = 'object')
);

create index if not exists message_pending on outbox.message (id) where delivered_at is null;
