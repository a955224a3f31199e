-- What the store asks of Postgres. The columns are those of columns.py, in its order.

-- name: create_staging_of_session
CREATE TEMP TABLE staging (
    trader_id text COLLATE "C", epoch int8, seq int8, recorded_at timestamptz,
    daily_pnl float8, drawdown_pct float8, current_equity float8, peak_equity float8,
    trading_paused bool, paused_until timestamptz, last_reset_time timestamptz,
    trace_id text, reason text, merged int4
) ON COMMIT DELETE ROWS;

-- name: create_staging_of_transaction
-- Behind a connection pooler the next transaction may run on another connection of the server.
CREATE TEMP TABLE staging (
    trader_id text COLLATE "C", epoch int8, seq int8, recorded_at timestamptz,
    daily_pnl float8, drawdown_pct float8, current_equity float8, peak_equity float8,
    trading_paused bool, paused_until timestamptz, last_reset_time timestamptz,
    trace_id text, reason text, merged int4
) ON COMMIT DROP;

-- name: write_something
-- A transaction that finds all its rows there already may write nothing, and then its COMMIT waits for no
-- standby. This makes it write, so that its COMMIT speaks for what an earlier one wrote.
SELECT pg_logical_emit_message(true, 'riskstream', '');

-- name: check_constraints_at_once
-- A deferred constraint has to speak while the row at fault can still be found.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: copy_history
COPY risk_state_history (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
) FROM STDIN (FORMAT binary);

-- name: insert_history
-- For a few rows: one round trip, where COPY takes two.
INSERT INTO risk_state_history (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
)
SELECT * FROM unnest(
    %b::text[], %b::int8[], %b::int8[], %b::timestamptz[], %b::float8[], %b::float8[], %b::float8[], %b::float8[],
    %b::bool[], %b::timestamptz[], %b::timestamptz[], %b::text[], %b::text[], %b::int4[]
);

-- name: copy_staging
COPY staging (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
) FROM STDIN (FORMAT binary);

-- name: empty_staging
TRUNCATE staging;

-- name: save_history
INSERT INTO risk_state_history (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
)
SELECT
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
FROM staging ORDER BY trader_id, recorded_at, epoch, seq
ON CONFLICT (trader_id, recorded_at, epoch, seq) DO NOTHING;

-- name: save_state
INSERT INTO risk_state AS state (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason
)
SELECT
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason
FROM unnest(
    %b::text[], %b::int8[], %b::int8[], %b::timestamptz[], %b::float8[], %b::float8[], %b::float8[], %b::float8[],
    %b::bool[], %b::timestamptz[], %b::timestamptz[], %b::text[], %b::text[], %b::int4[]
) AS newest (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
)
ORDER BY trader_id COLLATE "C"
ON CONFLICT (trader_id) DO UPDATE SET
    epoch = excluded.epoch, seq = excluded.seq, recorded_at = excluded.recorded_at,
    daily_pnl = excluded.daily_pnl, drawdown_pct = excluded.drawdown_pct,
    current_equity = excluded.current_equity, peak_equity = excluded.peak_equity,
    trading_paused = excluded.trading_paused, paused_until = excluded.paused_until,
    last_reset_time = excluded.last_reset_time, trace_id = excluded.trace_id,
    reason = excluded.reason, updated_at = now()
WHERE (state.epoch, state.seq) < (excluded.epoch, excluded.seq);

-- name: save_dead_letter
INSERT INTO risk_dead_letter (stream, entry_id, reason, sqlstate, trader_id, epoch, seq, payload)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING;
