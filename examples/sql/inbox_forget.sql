-- docs: begin
-- From time to time. Keep more than the longest time after which a repeat can still come.
delete from inbox where handled_at < now() - interval '30 days';
-- docs: end
