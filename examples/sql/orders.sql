-- The application's own table, in all the examples.
create table orders (
    id bigint generated always as identity primary key,
    state text not null default 'placed',
    carrier text
);
insert into orders default values;
