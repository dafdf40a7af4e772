-- A second mark in the same table: what the one pipeline has delivered is still pending for the other.
-- Run by its owner; safe to repeat.
alter table outbox.message add column if not exists rabbitmq_delivered_at timestamptz;

create index if not exists message_rabbitmq_pending on outbox.message (id) where rabbitmq_delivered_at is null;
