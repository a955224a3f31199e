-- migrate:up

-- Hours and days of each trader. What is first and what is last is decided by recorded_at, epoch and seq: numbers of
-- seconds, and whole numbers below 2^53, are exact in double precision, so an array of them is compared like the
-- three. `riskstream timescale enable` makes continuous aggregates of the two, with the same names and columns.

CREATE VIEW risk_hourly AS
SELECT
    trader_id,
    date_bin('1 hour', recorded_at, '2000-01-01 00:00:00+00') AS bucket,
    (min(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity
    ]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[5] AS daily_pnl,
    count(*) FILTER (WHERE trading_paused)::double precision / count(*) AS paused_share,
    count(*) AS snapshots
FROM risk_state_history
GROUP BY trader_id, date_bin('1 hour', recorded_at, '2000-01-01 00:00:00+00');

CREATE VIEW risk_daily AS
SELECT
    trader_id,
    date_bin('1 day', recorded_at, '2000-01-01 00:00:00+00') AS bucket,
    (min(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity
    ]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[5] AS daily_pnl,
    count(*) FILTER (WHERE trading_paused)::double precision / count(*) AS paused_share,
    count(*) AS snapshots
FROM risk_state_history
GROUP BY trader_id, date_bin('1 day', recorded_at, '2000-01-01 00:00:00+00');

COMMENT ON VIEW risk_hourly IS
    'Hours (UTC) of each trader: open, high, low, close of current_equity, worst_drawdown_pct, the last daily_pnl, '
    'paused_share (0 to 1, of the snapshots), snapshots; docs/retention.md';
COMMENT ON VIEW risk_daily IS
    'Days (UTC) of each trader: open, high, low, close of current_equity, worst_drawdown_pct, the last daily_pnl, '
    'paused_share (0 to 1, of the snapshots), snapshots; docs/retention.md';

-- History stays append-only but for one thing: a transaction that has put an entry "expired" at the end of the chain of
-- seals may remove the rows that this entry names.
DO $do$
BEGIN
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION risk_refuse_change() RETURNS trigger
            LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp
        AS $$
        DECLARE
            entry %1$I.risk_seal_run;
        BEGIN
            -- Chunks of a hypertable have the triggers under these names too.
            IF tg_op = 'DELETE' AND tg_name LIKE 'risk\_state\_history\_append\_only\_%%' THEN
                SELECT * INTO entry FROM %1$I.risk_seal_run ORDER BY number DESC LIMIT 1;
                IF entry.kind = 'expired' AND entry.sealed_at = now() THEN
                    IF tg_level = 'STATEMENT' THEN
                        RETURN NULL;
                    END IF;
                    IF old.recorded_at < entry.expired_until::timestamp AT TIME ZONE 'UTC'
                        AND old.stored_at < entry.until_at
                    THEN
                        RETURN old;
                    END IF;
                END IF;
            END IF;
            RAISE EXCEPTION '%% is append-only: %% is refused', tg_table_name, tg_op
                USING HINT = 'History is an audit trail. What is wrong in it is put right by a newer snapshot.';
        END
        $$
    $sql$, current_schema());
END
$do$;

-- migrate:down

DO $$
DECLARE
    home name;
    extension_schema name;
    each record;
BEGIN
    -- What `riskstream timescale enable` made goes too: the versions before know neither.
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
            RAISE EXCEPTION 'TimescaleDB is not in shared_preload_libraries, so rows in chunks may be out of sight'
                USING HINT = 'Preload it, restart the server, then try again.';
        END IF;
        SELECT nspname INTO STRICT home
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = 'risk_state_history'::regclass;
        SELECT nspname INTO STRICT extension_schema
        FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'timescaledb';
        FOR each IN
            SELECT view_name FROM timescaledb_information.continuous_aggregates
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history')
                AND view_name IN ('risk_hourly', 'risk_daily')
        LOOP
            EXECUTE format('DROP MATERIALIZED VIEW %I.%I', home, each.view_name);
        END LOOP;
        IF EXISTS (
            SELECT FROM timescaledb_information.hypertables
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history') AND compression_enabled
        ) THEN
            EXECUTE format('CALL %I.remove_columnstore_policy(%L, if_exists => true)', extension_schema,
                'risk_state_history');
            EXECUTE format(
                'SELECT %I.decompress_chunk(format(''%%I.%%I'', chunk_schema, chunk_name)::regclass)'
                ' FROM timescaledb_information.chunks'
                ' WHERE (hypertable_schema, hypertable_name) = (%L, ''risk_state_history'') AND is_compressed',
                extension_schema, home);
            ALTER TABLE risk_state_history SET (timescaledb.compress = false);
        END IF;
    END IF;
END
$$;

DROP VIEW IF EXISTS risk_hourly, risk_daily;

CREATE OR REPLACE FUNCTION risk_refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', tg_table_name, tg_op
        USING HINT = 'History is an audit trail. What is wrong in it is put right by a newer snapshot.';
END
$$;
