-- psql "$DATABASE_URL" -v source=shop -v message_id=7 -v order=1 -v carrier=post -f inbox_handle.sql
\set ON_ERROR_STOP on

-- docs: begin
begin;

-- The first copy of a message gets a row of the inbox, every other copy gets none and does nothing.
-- While the first is still being handled in another transaction, this waits until that has ended.
with first_time as (
    insert into inbox (source, message_id) values (:'source', :'message_id')
    on conflict do nothing
    returning message_id
)
insert into invoice (order_id, carrier)
select :'order'::bigint, :'carrier' from first_time;

commit;
-- Only now acknowledge the message to the broker.
-- docs: end
