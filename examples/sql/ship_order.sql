-- psql "$DATABASE_URL" -v order=1 -v carrier=post -f ship_order.sql
\set ON_ERROR_STOP on

-- docs: begin
begin;

-- Lock the order before anything is written: whoever changes it next waits here and gets a higher
-- outbox id, so its event comes second. (\gset makes psql stop if there is no such order.)
select state from orders where id = :'order' for update \gset

update orders set state = 'shipped', carrier = :'carrier' where id = :'order';

insert into outbox.message (destination, key, kind, payload)
values ('orders', :'order', 'OrderShipped',
        json_build_object('order', :'order'::bigint, 'carrier', :'carrier'));

commit;
-- docs: end
