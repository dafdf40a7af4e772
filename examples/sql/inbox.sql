-- docs: begin
-- What this consumer has handled, kept in the consumer's own database.
create table inbox (
    source text not null,           -- whose outbox it was: ids of two outboxes may be equal
    message_id text not null,       -- the header outbox-id, or RabbitMQ's message_id
    handled_at timestamptz not null default clock_timestamp(),
    primary key (source, message_id)
);
-- docs: end

-- The consumer's own table, in the example.
create table invoice (order_id bigint not null, carrier text not null);
