-- migrate:up

-- The columns of fixed length come first: a row takes 149 bytes instead of 167, and less of the server's time. The
-- table is made anew, and its rows are moved in the order in which they were stored, on which the index by stored_at
-- depends. Names, types and key are those of before: workers and queries of the version before go on working.

CREATE TEMP TABLE carried (place integer NOT NULL, statement text NOT NULL) ON COMMIT DROP;
COMMENT ON COLUMN carried.place IS '1: before the rows are moved; from 2 on: afterwards, in this order';

LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE;

DO $$
DECLARE
    history CONSTANT regclass := 'risk_state_history'::regclass;
    home name;
    hindrances text;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
            RAISE EXCEPTION 'TimescaleDB is not in shared_preload_libraries, so rows in chunks may be out of sight'
                USING HINT = 'Preload it, restart the server, then try again.';
        END IF;
    END IF;

    -- What this migration does not know it does not touch. Of what depends on the table, indexes, constraints, triggers,
    -- defaults and statistics are carried over.
    SELECT string_agg(name, ', ' ORDER BY name) INTO hindrances
    FROM (
        SELECT pg_describe_object(classid, objid, objsubid) AS name
        FROM pg_depend
        WHERE refclassid = 'pg_class'::regclass AND refobjid = history AND CASE classid
            WHEN 'pg_class'::regclass THEN EXISTS (
                SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                WHERE pg_class.oid = objid AND relkind NOT IN ('i', 't') AND nspname NOT LIKE '\_timescaledb\_%')
            WHEN 'pg_constraint'::regclass THEN EXISTS (
                SELECT FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
                    JOIN pg_namespace ON pg_namespace.oid = relnamespace
                WHERE pg_constraint.oid = objid AND conrelid <> history AND nspname NOT LIKE '\_timescaledb\_%')
            ELSE classid NOT IN (
                'pg_attrdef'::regclass, 'pg_statistic_ext'::regclass, 'pg_trigger'::regclass, 'pg_type'::regclass)
        END
        UNION
        SELECT format('its inheritance from %s', inhparent::regclass) FROM pg_inherits WHERE inhrelid = history
        UNION
        SELECT format('a security label of %s', provider)
        FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = history
        UNION
        SELECT unnest(array_remove(ARRAY[
            CASE WHEN relrowsecurity OR relforcerowsecurity THEN 'row security' END,
            CASE WHEN relpersistence <> 'p' THEN 'being unlogged' END,
            CASE WHEN relam <> (SELECT oid FROM pg_am WHERE amname = 'heap') THEN 'an access method other than heap' END,
            CASE WHEN reloftype <> 0 THEN 'being a table of a type' END
        ], NULL))
        FROM pg_class WHERE oid = history
    ) AS found;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        SELECT nspname INTO STRICT home
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = history;
        SELECT concat_ws(', ', hindrances, string_agg(name, ', ' ORDER BY name)) INTO hindrances
        FROM (
            SELECT format('TimescaleDB''s job %s (%s)', job_id, proc_name) AS name
            FROM timescaledb_information.jobs
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history')
            UNION
            SELECT format('TimescaleDB''s continuous aggregate %s', view_name)
            FROM timescaledb_information.continuous_aggregates
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history')
            UNION
            SELECT unnest(array_remove(ARRAY[
                CASE WHEN compression_enabled THEN 'TimescaleDB''s compression' END,
                CASE WHEN tablespaces IS NOT NULL THEN format('TimescaleDB''s tablespaces %s', tablespaces) END
            ], NULL))
            FROM timescaledb_information.hypertables
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history')
            UNION
            SELECT format('TimescaleDB''s dimension %s', column_name)
            FROM timescaledb_information.dimensions
            WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history')
                AND (column_name <> 'recorded_at' OR time_interval IS NULL)
        ) AS found;
        INSERT INTO carried
        SELECT 1, format(
            'SELECT %I.set_chunk_time_interval(''risk_state_history'', interval %L)', nspname, time_interval)
        FROM timescaledb_information.dimensions, pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE (hypertable_schema, hypertable_name) = (home, 'risk_state_history') AND column_name = 'recorded_at'
            AND extname = 'timescaledb';
    END IF;
    IF hindrances <> '' THEN
        RAISE EXCEPTION 'risk_state_history has what riskstream did not make, and would lose it: %', hindrances
            USING HINT = 'Remove it, migrate, and make it again.';
    END IF;

    -- Of the table.
    INSERT INTO carried
    SELECT place, format('ALTER TABLE risk_state_history %s', change)
    FROM pg_class AS own, LATERAL (VALUES
        (1, (SELECT 'SET TABLESPACE ' || quote_ident(spcname) FROM pg_tablespace WHERE oid = own.reltablespace)),
        (1, 'SET (' || array_to_string(reloptions, ', ') || ')'),
        (1, (
            SELECT 'SET (' || string_agg('toast.' || option, ', ') || ')'
            FROM pg_class AS toast, unnest(toast.reloptions) AS option WHERE toast.oid = own.reltoastrelid)),
        (2, 'OWNER TO ' || quote_ident(pg_get_userbyid(relowner))),
        (6, CASE relreplident WHEN 'n' THEN 'REPLICA IDENTITY NOTHING' WHEN 'f' THEN 'REPLICA IDENTITY FULL' END)
    ) AS changes (place, change)
    WHERE oid = history AND change IS NOT NULL;

    -- Of its columns.
    INSERT INTO carried
    SELECT place, format('ALTER TABLE risk_state_history ALTER COLUMN %I %s', attname, change)
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid, LATERAL (VALUES
        (1, CASE WHEN attstorage <> typstorage THEN 'SET STORAGE ' || CASE attstorage
            WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END),
        (1, CASE attcompression WHEN 'p' THEN 'SET COMPRESSION pglz' WHEN 'l' THEN 'SET COMPRESSION lz4' END),
        (1, CASE WHEN attstattarget >= 0 THEN 'SET STATISTICS ' || attstattarget END),
        (1, 'SET (' || array_to_string(attoptions, ', ') || ')'),
        (2, coalesce('SET DEFAULT ' || (
            SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = history AND adnum = attnum
        ), 'DROP DEFAULT'))
    ) AS changes (place, change)
    WHERE attrelid = history AND attnum > 0 AND NOT attisdropped AND change IS NOT NULL;

    -- Privileges: these and no others, whatever the defaults for new tables are. (No list: the owner's, all of them.)
    INSERT INTO carried
    SELECT 4, format(
        'GRANT %s%s ON risk_state_history TO %s%s',
        acl.privilege_type,
        '(' || quote_ident(granted.attname) || ')',
        CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
        CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' END)
    FROM (
        SELECT NULL AS attname, coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class WHERE oid = history
        UNION ALL
        SELECT attname, attacl FROM pg_attribute WHERE attrelid = history AND NOT attisdropped
    ) AS granted, aclexplode(granted.acl) AS acl;

    -- Of what belongs to it.
    INSERT INTO carried
    SELECT 5, format('ALTER TABLE risk_state_history ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
    FROM pg_constraint
    WHERE conrelid = history AND contype IN ('c', 'f', 'u', 'x') AND conname NOT IN (
        'risk_state_history_trader_id_check', 'risk_state_history_epoch_check', 'risk_state_history_seq_check',
        'risk_state_history_recorded_at_check', 'risk_state_history_daily_pnl_check',
        'risk_state_history_drawdown_pct_check', 'risk_state_history_current_equity_check',
        'risk_state_history_peak_equity_check', 'risk_state_history_trace_id_check', 'risk_state_history_reason_check')
    UNION ALL
    SELECT 5, pg_get_indexdef(indexrelid)
    FROM pg_index
    WHERE indrelid = history AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    UNION ALL
    SELECT 5, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = history
    UNION ALL
    SELECT 5, pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE tgrelid = history AND NOT tgisinternal AND proname <> 'risk_refuse_change'
        AND nspname NOT LIKE '\_timescaledb\_%'
    UNION ALL
    SELECT 6, format(
        'ALTER TABLE risk_state_history %s TRIGGER %I',
        CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, tgname)
    FROM pg_trigger WHERE tgrelid = history AND NOT tgisinternal AND tgenabled <> 'O'
    UNION ALL
    SELECT 6, change
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid LEFT JOIN pg_tablespace ON pg_tablespace.oid = reltablespace,
        LATERAL (VALUES
            (format('ALTER INDEX %I SET TABLESPACE ', relname) || quote_ident(spcname)),
            (CASE WHEN EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) THEN
                format('ALTER INDEX %I SET (', relname) || array_to_string(reloptions, ', ') || ')' END),
            (CASE WHEN indisclustered THEN format('ALTER TABLE risk_state_history CLUSTER ON %I', relname) END),
            (CASE WHEN indisreplident THEN
                format('ALTER TABLE risk_state_history REPLICA IDENTITY USING INDEX %I', relname) END)
        ) AS changes (change)
    WHERE indrelid = history AND change IS NOT NULL
    UNION ALL
    SELECT 7, format('COMMENT ON %s %s IS %L', CASE type
        WHEN 'table constraint' THEN 'CONSTRAINT' WHEN 'statistics object' THEN 'STATISTICS' ELSE type END,
        identity, description)
    FROM pg_description, pg_identify_object(classoid, objoid, objsubid)
    WHERE (classoid, objoid) IN (
        SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = history
        UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = history
        UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = history AND NOT tgisinternal
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = history);
END
$$;

ALTER TABLE risk_state_history RENAME CONSTRAINT risk_state_history_pkey TO risk_state_history_before_pkey;
ALTER TABLE risk_state_history RENAME TO risk_state_history_before;

CREATE TABLE risk_state_history (
    recorded_at timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    daily_pnl double precision NOT NULL,
    drawdown_pct double precision NOT NULL,
    current_equity double precision NOT NULL,
    peak_equity double precision NOT NULL,
    last_reset_time timestamptz NOT NULL,
    merged integer NOT NULL DEFAULT 0,
    trading_paused boolean NOT NULL,
    trader_id text COLLATE "C" NOT NULL,
    trace_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    paused_until timestamptz,
    -- The identity of a snapshot, which makes a replay a no-op; it also answers "the last N of this trader".
    CONSTRAINT risk_state_history_pkey PRIMARY KEY (trader_id, recorded_at, epoch, seq),
    CONSTRAINT risk_state_history_trader_id_check CHECK (length(trader_id) BETWEEN 1 AND 255),
    CONSTRAINT risk_state_history_epoch_check CHECK (epoch >= 1),
    CONSTRAINT risk_state_history_seq_check CHECK (0 <= merged AND merged < seq),
    CONSTRAINT risk_state_history_recorded_at_check
        CHECK (recorded_at >= '2000-01-01 00:00:00+00' AND recorded_at < 'infinity'),
    CONSTRAINT risk_state_history_daily_pnl_check CHECK (abs(daily_pnl) < 'infinity'),
    CONSTRAINT risk_state_history_drawdown_pct_check CHECK (abs(drawdown_pct) < 'infinity'),
    CONSTRAINT risk_state_history_current_equity_check CHECK (abs(current_equity) < 'infinity'),
    CONSTRAINT risk_state_history_peak_equity_check CHECK (abs(peak_equity) < 'infinity'),
    CONSTRAINT risk_state_history_trace_id_check CHECK (length(trace_id) <= 255),
    CONSTRAINT risk_state_history_reason_check CHECK (length(reason) <= 1024)
);

COMMENT ON TABLE risk_state_history IS
    'Every accepted snapshot, exactly once; append-only; a hypertable where TimescaleDB is loaded';
COMMENT ON COLUMN risk_state_history.trader_id IS 'Who: 1 to 255 characters';
COMMENT ON COLUMN risk_state_history.recorded_at IS
    'When the trader took the snapshot, by its own clock; the partition column';
COMMENT ON COLUMN risk_state_history.epoch IS
    'One incarnation of a producer for this trader; a newer epoch fences an older one';
COMMENT ON COLUMN risk_state_history.seq IS
    'Counts the trader''s snapshots within the epoch without gaps: 1, 2, 3, ...; a gap is a lost snapshot';
COMMENT ON COLUMN risk_state_history.trace_id IS
    'Finds the snapshot in the trader''s own logs; up to 255 characters';
COMMENT ON COLUMN risk_state_history.reason IS 'Why the state changed; up to 1024 characters';
COMMENT ON COLUMN risk_state_history.daily_pnl IS
    'Profit and loss since last_reset_time, in the account''s currency';
COMMENT ON COLUMN risk_state_history.drawdown_pct IS
    'Distance of current_equity below peak_equity, in percent';
COMMENT ON COLUMN risk_state_history.current_equity IS 'Equity, in the account''s currency';
COMMENT ON COLUMN risk_state_history.peak_equity IS 'Highest equity so far, in the account''s currency';
COMMENT ON COLUMN risk_state_history.trading_paused IS 'Whether the trader has stopped trading';
COMMENT ON COLUMN risk_state_history.paused_until IS
    'When the trader means to go on; NULL: not paused, or without an end';
COMMENT ON COLUMN risk_state_history.last_reset_time IS 'When daily_pnl was last set to zero';
COMMENT ON COLUMN risk_state_history.merged IS
    'How many older snapshots this one stands for (conflated): seq - merged up to seq - 1';
COMMENT ON COLUMN risk_state_history.stored_at IS
    'When the transaction that stored the row began, by the database''s clock';

CREATE TRIGGER risk_state_history_append_only_row
    BEFORE UPDATE OR DELETE ON risk_state_history
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_state_history_append_only_statement
    BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();

SELECT risk_history_to_hypertable();

DO $$
DECLARE
    changed text;
    each record;
BEGIN
    -- What was changed of riskstream's own columns and constraints.
    SELECT string_agg(name, ', ' ORDER BY name) INTO changed
    FROM (
        SELECT format('the column %s', attname) AS name
        FROM (
            SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attidentity, attgenerated
            FROM pg_attribute
            WHERE attrelid = 'risk_state_history_before'::regclass AND attnum > 0 AND NOT attisdropped
            EXCEPT
            SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attidentity, attgenerated
            FROM pg_attribute WHERE attrelid = 'risk_state_history'::regclass
        ) AS columns
        UNION
        SELECT format('the constraint %s', conname)
        FROM (
            SELECT conname, pg_get_constraintdef(oid)
            FROM pg_constraint
            WHERE conrelid = 'risk_state_history_before'::regclass AND conname IN (
                SELECT conname FROM pg_constraint WHERE conrelid = 'risk_state_history'::regclass)
            EXCEPT
            SELECT conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE conrelid = 'risk_state_history'::regclass
        ) AS constraints
        UNION
        SELECT 'the primary key'
        FROM pg_constraint
        WHERE conrelid = 'risk_state_history_before'::regclass AND contype = 'p'
            AND pg_get_constraintdef(oid) <> 'PRIMARY KEY (trader_id, recorded_at, epoch, seq)'
    ) AS found;
    IF changed <> '' THEN
        RAISE EXCEPTION 'risk_state_history is not as riskstream made it, and what was changed would be lost: %', changed
            USING HINT = 'Take it back, migrate, and change it again.';
    END IF;

    FOR each IN SELECT statement FROM carried WHERE place = 1 LOOP
        EXECUTE each.statement;
    END LOOP;
END
$$;

INSERT INTO risk_state_history (
    trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, merged, stored_at
)
SELECT
    trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity,
    trading_paused, paused_until, last_reset_time, merged, stored_at
FROM risk_state_history_before
ORDER BY stored_at;

-- New tables get the default privileges of their owner, and here they are those of before.
INSERT INTO carried
SELECT 3, format(
    'REVOKE ALL ON risk_state_history FROM %s',
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
WHERE oid = 'risk_state_history'::regclass
UNION
SELECT 3, format('REVOKE ALL ON risk_state_history FROM %I', pg_get_userbyid(relowner))
FROM pg_class WHERE oid = 'risk_state_history_before'::regclass;

DROP TABLE risk_state_history_before;

-- Finds what was stored in a span of time. A B-tree is hardly quicker, and costs ingest a tenth more.
CREATE INDEX risk_state_history_stored_at ON risk_state_history
    USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);

DO $$
DECLARE
    each record;
BEGIN
    FOR each IN SELECT statement FROM carried WHERE place > 1 ORDER BY place LOOP
        EXECUTE each.statement;
    END LOOP;
END
$$;

ANALYZE risk_state_history;

-- migrate:down

-- The order of the columns stays: every version works with either.
DROP INDEX risk_state_history_stored_at;
