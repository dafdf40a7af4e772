-- What a new connection leads to.
--
-- $1: the session is shared, so what is set lasts for this transaction alone
select
    pg_backend_pid() as pid,
    pg_is_in_recovery() as recovering,
    -- One of our settings stands for all: they arrive together.
    current_setting('plan_cache_mode') = 'force_custom_plan' as settled,
    set_config('search_path', '', $1) as search_path;
