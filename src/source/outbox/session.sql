-- What a new connection leads to.
--
-- $1: the session is shared, so what is set lasts for this transaction alone
select
    pg_backend_pid() as pid,
    coalesce(
        (select a.backend_start::text from pg_catalog.pg_stat_get_activity(pg_backend_pid()) as a), ''
    ) as started,
    pg_is_in_recovery() as recovering,
    -- One of our settings stands for all: they arrive together.
    current_setting('plan_cache_mode') = 'force_custom_plan' as settled,
    set_config('search_path', '', $1) as search_path;
