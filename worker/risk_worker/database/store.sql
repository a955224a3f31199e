-- What the store asks of Postgres. The columns are those of columns.py, in its order.

-- name: create_staging_of_session
CREATE TEMP TABLE staging (
    trader_id text COLLATE "C", epoch int8, seq int8, recorded_at timestamptz,
    daily_pnl float8, drawdown_pct float8, current_equity float8, peak_equity float8,
    trading_paused bool, paused_until timestamptz, last_reset_time timestamptz,
    trace_id text, reason text, merged int4, namespace text
) ON COMMIT DELETE ROWS;

-- name: create_staging_of_transaction
-- Behind a connection pooler the next transaction may run on another connection of the server.
CREATE TEMP TABLE staging (
    trader_id text COLLATE "C", epoch int8, seq int8, recorded_at timestamptz,
    daily_pnl float8, drawdown_pct float8, current_equity float8, peak_equity float8,
    trading_paused bool, paused_until timestamptz, last_reset_time timestamptz,
    trace_id text, reason text, merged int4, namespace text
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

-- name: copy_staging
COPY staging (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
) FROM STDIN (FORMAT binary);

-- name: copy_newest
COPY staging (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged, namespace
) FROM STDIN (FORMAT binary);

-- name: empty_staging
TRUNCATE staging;

-- name: save_history
-- As the rows were copied, which is the order in which COPY puts them into history: who inserts the same rows at the
-- same time waits for this one, or this one for it.
INSERT INTO risk_state_history (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
)
SELECT
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, merged
FROM staging ORDER BY ctid
ON CONFLICT (trader_id, recorded_at, epoch, seq) DO NOTHING;

-- name: newest_of_few
-- before: save_state
-- The newest snapshot of each trader, in arrays.
-- namespace: which the trader belongs to from now on, where it belongs to none yet.
WITH newest AS (
    SELECT * FROM unnest(
        %(trader_id)b::text[], %(epoch)b::int8[], %(seq)b::int8[], %(recorded_at)b::timestamptz[],
        %(daily_pnl)b::float8[], %(drawdown_pct)b::float8[], %(current_equity)b::float8[],
        %(peak_equity)b::float8[], %(trading_paused)b::bool[], %(paused_until)b::timestamptz[],
        %(last_reset_time)b::timestamptz[], %(trace_id)b::text[], %(reason)b::text[], %(merged)b::int4[],
        %(namespace)s::text[]
    ) AS of_arrays (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason, merged, namespace
    )
)

-- name: newest_of_many
-- before: save_state
-- The same, where copy_newest put it.
WITH newest AS (SELECT * FROM staging)

-- name: save_state
-- came_by: the namespace, where no trader gets one. What came by another namespace than the trader's would make
-- its namespace empty, which violates risk_state_namespace_check: nothing of the transaction is stored then.
INSERT INTO risk_state AS state (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, namespace
)
SELECT
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason, namespace
FROM newest
ORDER BY trader_id COLLATE "C"
ON CONFLICT (trader_id) DO UPDATE SET
    epoch = excluded.epoch, seq = excluded.seq, recorded_at = excluded.recorded_at,
    daily_pnl = excluded.daily_pnl, drawdown_pct = excluded.drawdown_pct,
    current_equity = excluded.current_equity, peak_equity = excluded.peak_equity,
    trading_paused = excluded.trading_paused, paused_until = excluded.paused_until,
    last_reset_time = excluded.last_reset_time, trace_id = excluded.trace_id,
    reason = excluded.reason, updated_at = now(),
    namespace = CASE WHEN state.namespace <> coalesce(excluded.namespace, %(came_by)s) THEN ''
                     ELSE coalesce(state.namespace, excluded.namespace) END
WHERE (state.epoch, state.seq) < (excluded.epoch, excluded.seq)
   OR state.namespace <> coalesce(excluded.namespace, %(came_by)s);

-- name: namespaces_of_traders
SELECT trader_id, namespace FROM risk_state
WHERE trader_id = ANY (%(traders)s::text[]) AND namespace IS NOT NULL;

-- name: save_dead_letter
-- What names a trader of another namespace names no snapshot of that trader: it counts as unidentified.
INSERT INTO risk_dead_letter (stream, entry_id, reason, sqlstate, trader_id, epoch, seq, payload)
SELECT %(stream)s, %(entry_id)s, %(reason)s, %(sqlstate)s,
       CASE WHEN own THEN %(trader_id)s::text END, CASE WHEN own THEN %(epoch)s::bigint END,
       CASE WHEN own THEN %(seq)s::bigint END, %(payload)s
FROM (SELECT NOT EXISTS (
    SELECT FROM risk_state WHERE trader_id = %(trader_id)s::text AND namespace <> %(came_by)s
) AS own) AS looked_up
ON CONFLICT DO NOTHING;
