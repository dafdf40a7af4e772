-- What is pending before the pipeline begins, and how old? Counted up to a limit.
--
-- {table}: quoted name; {pending}: predicate on o; {created_at} {position}: expressions on o
-- {order}: order by, or empty
-- $1: count at most this many; $2: seconds after which a row is history
with due as (
    select {created_at} as created_at
    from {table} as o
    where {pending}
    {order}
    limit $1
)

select
    count(*) as pending_rows,
    count(*) > count(created_at)
        or coalesce(min(created_at) < clock_timestamp() - make_interval(secs => $2), false) as is_history,
    to_char(min(created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') as oldest,
    (select max({position}) from {table} as o where {pending})::bigint as highest
from due;
