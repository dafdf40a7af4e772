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
    format('%I', current_user) as role
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where
    c.relname = $2
    and case when $1::text is null then pg_table_is_visible(c.oid) else n.nspname = $1 end
    and c.relkind not in ('i', 'I', 'S', 't', 'c');
