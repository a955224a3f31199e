-- The tables of the system that riskstream replaces: looked for, moved to the schema old_risk, and read there.

-- name: tables
SELECT table_schema = current_schema() AS is_here, table_name::text, array_agg(column_name::text)
FROM information_schema.columns
WHERE table_schema IN (current_schema(), 'old_risk')
  AND table_name IN ('risk_state', 'risk_state_history', 'schema_migrations')
GROUP BY table_schema, table_name;

-- name: move
-- Nothing is rewritten; a hypertable stays one. A program that still writes by the old names is refused from now on.
SET LOCAL lock_timeout = '10s';
CREATE SCHEMA IF NOT EXISTS old_risk;
ALTER TABLE risk_state SET SCHEMA old_risk;
ALTER TABLE risk_state_history SET SCHEMA old_risk;

-- name: move_versions
CREATE SCHEMA IF NOT EXISTS old_risk;
ALTER TABLE schema_migrations SET SCHEMA old_risk;

-- name: begin
-- The trigger that closes history is met here, not after the minutes that reading may take: it keeps the sealing of what
-- this transaction will store waiting until it has committed.
INSERT INTO risk_state_history SELECT * FROM risk_state_history WHERE false;

-- name: read
-- requires: original
-- In the order of their time; the state comes last. What history cannot hold gets the reason, and no number. A time that is
-- infinite is none. removed: it was imported before, and retention has removed it since.
CREATE TEMP TABLE original_rows ON COMMIT DROP AS
WITH original AS (
    SELECT false AS is_state, id, trader_id, recorded_at, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time
    FROM old_risk.risk_state_history
    UNION ALL
    SELECT true, 0, trader_id, updated_at, '', 'state of the original', daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time
    FROM old_risk.risk_state
), typed AS (
    SELECT is_state, id, trader_id::text COLLATE "C" AS trader_id, recorded_at::timestamptz AS recorded_at,
        left(coalesce(trace_id, ''), 255) AS trace_id, left(coalesce(reason, ''), 1024) AS reason,
        daily_pnl::double precision AS daily_pnl, drawdown_pct::double precision AS drawdown_pct,
        current_equity::double precision AS current_equity, peak_equity::double precision AS peak_equity,
        coalesce(trading_paused, false) AS trading_paused,
        CASE WHEN isfinite(paused_until) THEN paused_until::timestamptz END AS paused_until,
        (CASE WHEN isfinite(last_reset_time) THEN last_reset_time ELSE recorded_at END)::timestamptz
            AS last_reset_time
    FROM original
), examined AS (
    SELECT *, CASE
        WHEN trader_id IS NULL OR length(trader_id) NOT BETWEEN 1 AND 255
            THEN 'trader_id does not have 1 to 255 characters'
        WHEN (recorded_at >= '2000-01-01 00:00:00+00' AND recorded_at < '2200-01-01 00:00:00+00') IS NOT TRUE
            THEN 'recorded_at is missing, or not in the years 2000 to 2199'
        WHEN least(paused_until, last_reset_time) < '0001-01-02 00:00:00+00'
                OR greatest(paused_until, last_reset_time) >= '9999-12-31 00:00:00+00'
            THEN 'paused_until or last_reset_time is not in the years 1 to 9999'
        WHEN (abs(daily_pnl) < 'infinity' AND abs(drawdown_pct) < 'infinity'
              AND abs(current_equity) < 'infinity' AND abs(peak_equity) < 'infinity') IS NOT TRUE
            THEN 'a figure is missing, not a number or infinite'
        END AS unfit
    FROM typed
)
SELECT *, CASE
    WHEN unfit IS NULL AND recorded_at < (SELECT max(expired_until)::timestamp AT TIME ZONE 'UTC' FROM risk_seal_run)
        THEN EXISTS (
            SELECT FROM risk_epoch_total AS total
            WHERE (total.trader_id, total.epoch) = (numbered.trader_id, 1) AND expired > 0 AND seq <@ covered
        ) AND NOT EXISTS (
            SELECT FROM risk_state_history AS history
            WHERE (history.trader_id, history.recorded_at, history.epoch, history.seq)
                  = (numbered.trader_id, numbered.recorded_at, 1, numbered.seq)
        )
    ELSE false
    END AS removed
FROM (
    SELECT *, row_number() OVER (PARTITION BY unfit IS NULL, trader_id ORDER BY is_state, recorded_at, id) AS seq
    FROM examined
) AS numbered;

-- name: unfit
-- requires: original
SELECT is_state, id::text, trader_id, unfit FROM original_rows WHERE unfit IS NOT NULL
ORDER BY is_state, original_rows.id, trader_id LIMIT %(shown)s::bigint;

-- name: counts
-- requires: original
SELECT count(*) FILTER (WHERE unfit IS NULL), count(*) FILTER (WHERE unfit IS NOT NULL),
       count(DISTINCT trader_id) FILTER (WHERE unfit IS NULL)
FROM original_rows;

-- name: into_history
-- requires: original
INSERT INTO risk_state_history (
    trader_id, epoch, seq, recorded_at, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time
)
SELECT trader_id, 1, seq, recorded_at, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time
FROM original_rows WHERE unfit IS NULL AND NOT removed
ON CONFLICT DO NOTHING;

-- name: into_state
-- requires: original
-- A trader that riskstream knows already has a greater epoch, and keeps its state.
INSERT INTO risk_state (
    trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason
)
SELECT DISTINCT ON (trader_id)
    trader_id, 1, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, trace_id, reason
FROM original_rows WHERE unfit IS NULL
ORDER BY trader_id, seq DESC
ON CONFLICT (trader_id) DO NOTHING;

-- name: differences
-- requires: original
-- (rows of the original that history does not have as they are, rows of epoch 1 that the original does not have)
WITH expected AS (
    SELECT trader_id, seq, recorded_at, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time
    FROM original_rows WHERE unfit IS NULL AND NOT removed
), imported AS (
    SELECT trader_id, seq, recorded_at, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time
    FROM risk_state_history WHERE epoch = 1
)
SELECT (SELECT count(*) FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM imported) AS missing),
       (SELECT count(*) FROM (SELECT * FROM imported EXCEPT ALL SELECT * FROM expected) AS added);
