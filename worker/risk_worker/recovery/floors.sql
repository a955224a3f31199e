-- What the comparison of Redis with Postgres asks of Postgres.

-- name: wait_briefly
-- Reading the stream waits for this comparison, so it does not wait long: for a table that is locked, above all.
SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '2s';

-- name: page_of_states
-- Of the traders of one namespace, and of those that belong to none.
SELECT trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
       trading_paused, paused_until, last_reset_time, trace_id, reason
FROM risk_state
WHERE trader_id > %(after)s AND coalesce(namespace = %(namespace)s, true)
ORDER BY trader_id LIMIT %(page)s::int;
