-- Tells relays that listen that rows were written; its owner's to make, and never needed.
--
-- Without a payload, so that a transaction notifies once, whatever it writes.
-- {schema} {table} {channel}: quoted names; {function} {trigger}: names
create or replace function {schema}.{function}() returns trigger language plpgsql as $$
begin
    notify {channel};
    return null;
end $$;

drop trigger if exists {trigger} on {table};
create trigger {trigger} after insert on {table}
for each statement execute function {schema}.{function}();
