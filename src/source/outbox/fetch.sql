-- One read of the outbox: first a row about the moment, then the pending rows in order.
--
-- It is one statement because its parts must be true of one moment. The snapshot is taken before
-- anything runs, so all that follows is later than it:
--   * the locks: a transaction that took an order value below {highest} held its lock before it took
--     the value, and ends only after it is visible. Not visible in the snapshot, it still held the
--     lock then; if the list below lacks it, it has ended since, and every later read shows its rows.
--   * the insert position of the WAL: the commits of all rows shown here lie below it.
--
-- {table}: quoted name; {pending} {above} {exclude} {skip}: predicates on o
-- {row}: the columns sent; {payload}: expression on o; {order}: order by, or empty; {stored}: size known without reading it
-- {body}: payload as it is sent, an expression on "affordable"; {evaluated}: keeps it from being computed twice
-- {size}: bytes it is sent in, an expression on "written"
-- {highest}: highest visible position; {relations}: query for the oids an insert locks
-- {insert_lsn} {durable}: what is known of the WAL
-- $1: above this position; $2: rows at most; $3: bytes at most; $4: bytes of one payload at most
-- $5, $10: pids of our own connections, and when they started; $6: ids left out; $7, $8: keys and scopes of lanes left out
-- $9: scopes left out: topics, or exchanges whatever the routing key
with page as (
    select {row}, {payload} as payload, {stored} as stored
    from {table} as o
    where {pending} and {above}{exclude}{skip}
    {order}
    limit $2
),

-- By the size as stored, so that no payload is read (and decompressed) that has no place. What comes
-- out larger than it was stored is cut off by the reader.
affordable as (
    select
        page.*,
        sum(coalesce(stored, 0)) over (rows unbounded preceding) - coalesce(stored, 0) as stored_before
    from page
),

written as (
    select affordable.*, {body} as body
    from affordable
    where stored_before < $3
    {evaluated}
)

select
    {highest} as highest,
    (
        select string_agg(distinct l.virtualtransaction, ' ')
        from pg_catalog.pg_locks as l
        where
            l.locktype = 'relation' and l.mode = 'RowExclusiveLock' and l.granted
            and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
            and l.relation in ({relations})
            -- Our marks take the lock too but add no rows, unless a trigger or a rule does.
            and (
                l.pid is null
                or not exists (
                    select 1
                    from unnest($5::integer [], $10::text []) as own (pid, started)
                    -- A process that is gone leaves its number to another, who may well be a writer.
                    cross join lateral pg_catalog.pg_stat_get_activity(own.pid) as a
                    where own.pid = l.pid and a.backend_start::text = own.started
                )
                or exists (
                    select 1 from pg_catalog.pg_class as c
                    where c.oid in ({relations}) and (c.relhastriggers or c.relhasrules)
                )
            )
    ) as writers,
    {insert_lsn} as insert_lsn,
    {durable} as durable,
    {no_row}
union all
select null, null, null, null, {row_names}, stored, {size}, case when {size} <= $4 then body end
from written;
