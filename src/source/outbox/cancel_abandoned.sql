-- Ends the wait of a commit of ours that nobody waits for any more: with no synchronous standby it
-- would wait for ever, in a process that does not notice that its client is gone.
--
-- $1: the process that served the connection we gave up
select pg_cancel_backend(a.pid)
from pg_catalog.pg_stat_activity as a
where
    a.pid = $1
    and a.wait_event = 'SyncRep'
    and a.usename = current_user
    and a.datname = current_database()
    and a.application_name = current_setting('application_name');
