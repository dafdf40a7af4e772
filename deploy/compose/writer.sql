-- An application that places orders for ever: run by psql, whose \watch repeats the statement before it.
-- Every order is one transaction of a row of its own and its event; one in ten changes its mind.
create schema if not exists shop;

create table if not exists shop.purchase (
    id bigint generated always as identity primary key,
    customer integer not null,
    total numeric(10, 2) not null,
    placed_at timestamptz not null default clock_timestamp()
);

create or replace procedure shop.place_orders(orders integer)
language plpgsql as $$
declare
    purchase shop.purchase;
begin
    for _ in 1 .. orders loop
        insert into shop.purchase (customer, total)
        values ((random() * 100)::integer, (random() * 200)::numeric(10, 2))
        returning * into purchase;
        insert into outbox.message (destination, key, kind, payload)
        values ('orders', purchase.customer::text, 'OrderPlaced',
                json_build_object('order', purchase.id, 'customer', purchase.customer, 'total', purchase.total));
        if random() < 0.1 then
            rollback;
        else
            commit;
        end if;
    end loop;
end
$$;

call shop.place_orders(20)
\watch 1
