-- The role of the relay: what `outbox-relay migrate --print-sql` grants, and nothing else.
select 'create role relay' where to_regrole('relay') is null \gexec
alter role relay login password 'relay';

grant usage on schema outbox_relay to relay;
grant select, insert, update on outbox_relay.lease to relay;
grant usage on schema outbox to relay;
grant select on outbox.message to relay;
grant update (delivered_at) on outbox.message to relay;
