-- What `riskstream status` asks of Postgres.

-- name: server
-- (version as a number, whether it is a standby, whether transactions are read-only by default).
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
       current_setting('default_transaction_read_only')::boolean;

-- name: traders
-- (all, paused, silent). Silent is as `riskstream stale` has it: the earlier of two times.
SELECT count(*),
       count(*) FILTER (WHERE trading_paused),
       count(*) FILTER (WHERE least(recorded_at, updated_at) < now() - make_interval(secs => %(silent_s)s))
FROM risk_state;

-- name: paused
SELECT trader_id, extract(epoch FROM now() - least(recorded_at, updated_at))::float8, paused_until, reason
FROM risk_state WHERE trading_paused ORDER BY updated_at DESC LIMIT %(most)s;

-- name: silent
SELECT trader_id, extract(epoch FROM now() - least(recorded_at, updated_at))::float8, NULL, ''
FROM risk_state
WHERE least(recorded_at, updated_at) < now() - make_interval(secs => %(silent_s)s)
ORDER BY least(recorded_at, updated_at) DESC LIMIT %(most)s;

-- name: dead_letters
-- No more are counted than that: a table of millions takes long.
SELECT count(*) FROM (SELECT FROM risk_dead_letter LIMIT %(most)s) AS counted;

-- name: newest_dead_letter
SELECT extract(epoch FROM now() - failed_at)::float8, reason
FROM (SELECT failed_at, reason FROM risk_dead_letter LIMIT %(most)s) AS counted ORDER BY failed_at DESC LIMIT 1;
