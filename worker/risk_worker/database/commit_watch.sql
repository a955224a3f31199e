-- What the watch of the commits asks of Postgres.

-- name: what_it_waits_for
SELECT pg_is_in_recovery(), wait_event_type, wait_event, pg_blocking_pids(pid)
FROM (SELECT 1) AS one LEFT JOIN pg_stat_activity ON pid = ANY (%(pids)s::int[])
ORDER BY xact_start LIMIT 1;
