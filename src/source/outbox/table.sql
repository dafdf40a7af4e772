-- The application's table, as the catalog knows it. No row: it does not exist.
--
-- $1: schema, or null to look the name up in the search path; $2: table
select
    c.oid,
    format('%I.%I', n.nspname, c.relname) as name,
    format('%I', n.nspname) as schema,
    c.relkind::text as kind,
    c.relkind = 'p' or c.relhassubclass as has_parts,
    row_security_active(c.oid) as row_security,
    has_schema_privilege(n.oid, 'usage') as usable,
    has_table_privilege(c.oid, 'delete') as deletable,
    has_function_privilege('pg_catalog.pg_current_wal_insert_lsn()', 'execute')
        and has_function_privilege('pg_catalog.pg_current_wal_flush_lsn()', 'execute') as lsn_readable,
    format('%I', current_user) as role,
    (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user) as is_superuser,
    pg_has_role(c.relowner, 'usage') as is_owner,
    -- Columns without which no index over all partitions can be unique.
    array(
        select a.attname::text
        from pg_catalog.pg_partitioned_table as p
        inner join pg_catalog.pg_attribute as a on a.attrelid = p.partrelid and a.attnum = any(p.partattrs::smallint [])
        where p.partrelid = c.oid
    ) as part_columns,
    -- Of a view: the tables behind it.
    array(
        select distinct format('%I.%I', bn.nspname, b.relname)
        from pg_catalog.pg_rewrite as r
        inner join pg_catalog.pg_depend as d on d.objid = r.oid and d.classid = 'pg_catalog.pg_rewrite'::regclass
        inner join pg_catalog.pg_class as b
            on b.oid = d.refobjid and d.refclassid = 'pg_catalog.pg_class'::regclass
        inner join pg_catalog.pg_namespace as bn on bn.oid = b.relnamespace
        where r.ev_class = c.oid and b.oid <> c.oid and b.relkind in ('r', 'p')
    ) as behind
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where
    c.relname = $2
    and case when $1::text is null then pg_table_is_visible(c.oid) else n.nspname = $1 end
    and c.relkind not in ('i', 'I', 'S', 't', 'c');
