-- What load() asks of Postgres.

-- name: begin
-- For this transaction alone: behind a connection pooler others use the same session next. Whatever the defaults of the
-- database are, times come in the form that psycopg reads, and floats are exact.
BEGIN READ ONLY; SET LOCAL statement_timeout = '3s'; SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO'; SET LOCAL extra_float_digits = 1;

-- name: identity
SELECT id::text AS identity FROM risk_deployment;

-- name: state
-- None of a trader that belongs to another namespace. As JSON, for in a database of an earlier version there is no such
-- column.
SELECT trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
       trading_paused, paused_until, last_reset_time, trace_id, reason
FROM risk_state
WHERE trader_id = %(trader_id)s
  AND coalesce(to_jsonb(risk_state)->>'namespace', %(namespace)s::text) = %(namespace)s::text;
