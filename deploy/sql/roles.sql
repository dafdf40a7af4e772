-- A role for the relay that may do what the relay does, and nothing else.
--
-- Run it with psql, after `outbox-relay migrate`, as a superuser or as a role that may create roles and owns
-- the outbox table and the schema of the relay. It may be run again.
--
--   psql -v relay=relay -v outbox_schema=outbox -v outbox_table=message \
--        -v mark=update -v mark_column=delivered_at -v id_column=id -v state_schema=outbox_relay \
--        -v connections=50 -f roles.sql DATABASE
--
--   relay          the role: made if there is none, with no password (set one with \password)
--   outbox_schema  and outbox_table: the application's table, as stored
--   mark           as outbox.mark: update or delete
--   mark_column    as outbox.mark_column; with mark=delete it is not looked at
--   id_column      as outbox.columns.id; looked at only with mark=delete
--   state_schema   as state.schema
--   connections    how many the role may hold at once; docs/operations.md says how many it takes
--
-- What is left out has the value shown above. The role needs no more, whatever the relay is told to do:
-- the tables are made by `outbox-relay migrate`, which is run by their owner.
\set ON_ERROR_STOP on

\if :{?relay} \else \set relay relay \endif
\if :{?outbox_schema} \else \set outbox_schema outbox \endif
\if :{?outbox_table} \else \set outbox_table message \endif
\if :{?mark} \else \set mark update \endif
\if :{?mark_column} \else \set mark_column delivered_at \endif
\if :{?id_column} \else \set id_column id \endif
\if :{?state_schema} \else \set state_schema outbox_relay \endif
\if :{?connections} \else \set connections 50 \endif
select :'mark' = 'delete' as deletes, current_database() as database \gset

begin;

select format('create role %I login', :'relay') as made
where not exists (select from pg_catalog.pg_roles where rolname = :'relay') \gexec

-- Any of these would be a way around every grant below. A role made here has none of them.
select exists (
    select from pg_catalog.pg_roles
    where rolname = :'relay' and (rolsuper or rolcreatedb or rolcreaterole or rolreplication)
) as may_more \gset
\if :may_more
    \warn the role may do more than these grants: alter role it nosuperuser nocreatedb nocreaterole noreplication
\endif

-- So that a relay gone wrong does not take the connections of the application. Relays that need more than
-- this wait for one another, and a standby that gets none does not take over.
alter role :"relay" connection limit :connections;

-- The relay sets these itself on every connection. Here they also bind whoever else logs in as the role.
alter role :"relay" set statement_timeout = '30s';
alter role :"relay" set lock_timeout = '2s';
alter role :"relay" set idle_in_transaction_session_timeout = '10s';

grant connect on database :"database" to :"relay";

-- The application's table: read it, and mark. Row security would hide rows: where it is enabled, the relay
-- says so and what to do.
grant usage on schema :"outbox_schema" to :"relay";
grant select on :"outbox_schema".:"outbox_table" to :"relay";
\if :deletes
grant delete on :"outbox_schema".:"outbox_table" to :"relay";
-- Nothing is updated. But a row that somebody keeps locked is passed over by `for update skip locked`, for which
-- Postgres wants the right to update a column.
grant update (:"id_column") on :"outbox_schema".:"outbox_table" to :"relay";
\else
grant update (:"mark_column") on :"outbox_schema".:"outbox_table" to :"relay";
\endif

-- The relay's own tables: who may publish, and where each pipeline began. Nothing is ever deleted.
grant usage on schema :"state_schema" to :"relay";
grant select, insert, update on :"state_schema".lease, :"state_schema".pipeline to :"relay";

commit;
