-- The application's own tables. Its outbox is the one that `outbox-relay migrate` made.
create schema shop;

create table shop.customer (
    name text primary key,
    orders bigint not null default 0
);

create table shop.placed_order (
    id bigint generated always as identity primary key,
    customer text not null references shop.customer,
    -- Counts the customer's orders.
    number bigint not null,
    total_cents integer not null,
    unique (customer, number)
);

insert into shop.customer (name)
select 'customer-' || lpad(n::text, 3, '0') from generate_series(1, 200) n;
