-- What lies at or below the floor now? Its first and its last pending row are found at once by the index of
-- the pending rows, and a sequence that was restarted shows at one of the two.
--
-- {schema} {table}: quoted names; {unmarked}: predicate on o; {position} {created_at}: expressions on o
-- $1: pipeline; $2: outbox; $3: rows at or below are not ours
with known as (
    select started_at, start_after from {schema}.pipeline where pipeline = $1 and outbox = $2
),

edge as (
    (
        select {position}::bigint as position, {created_at} as created_at
        from {table} as o
        where {unmarked} and {position} <= $3
        order by {position}
        limit 1
    )
    union all
    (
        select {position}::bigint, {created_at}
        from {table} as o
        where {unmarked} and {position} <= $3
        order by {position} desc
        limit 1
    )
)

select
    (select known.start_after from known) is distinct from $3 as is_moved,
    (select min(edge.position) from edge) as first_position,
    (select max(edge.position) from edge) as last_position,
    -- A row at the floor itself was there at the first look, unless the numbers have come up to it again. If it
    -- says otherwise, the clock it was written by may be ahead, by a time zone at most, and so may the others'.
    (
        select
            bool_or(
                edge.created_at > known.started_at
                + case
                    when $3 in (select floor.position from edge as floor where floor.created_at > known.started_at)
                        then interval '15 hours'
                    else interval '0'
                end
            )
        from edge cross join known
    ) as is_new;
