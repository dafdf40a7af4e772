-- What is left to do: counted up to a limit, the oldest of the rows counted, by the database's clock.
--
-- {table}: quoted name; {pending}: predicate on o; {id} {created_at}: expressions on o
-- {order}: order by, or empty
-- $1: count at most this many
with due as (
    select {id} as id, {created_at} as created_at
    from {table} as o
    where {pending}
    {order}
    limit $1
)

select
    (select count(*) from due) as pending_rows,
    (select min(created_at) from due) as oldest,
    (select id from due limit 1) as first_id,
    clock_timestamp() as measured_at;
