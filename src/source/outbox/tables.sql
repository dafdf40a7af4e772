-- Names that a misspelt table may have meant.
select format('%s.%s', n.nspname, c.relname)
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname !~ '^(pg_|information_schema$)'
limit 2000;
