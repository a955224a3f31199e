-- migrate:up

-- What an operator drops of the dead letters is an entry of the chain of seals, with what each of them stood for: so the gap
-- that it leaves is known for ever to be none of a loss.
ALTER TABLE risk_seal_run
    DROP CONSTRAINT risk_seal_run_kind_check,
    ADD CONSTRAINT risk_seal_run_kind_check CHECK (
        kind = 'sealed' AND from_at < until_at OR kind IN ('expired', 'dropped') AND from_at = until_at
        OR kind = 'reopened' AND from_at > until_at
    );
COMMENT ON COLUMN risk_seal_run.kind IS
    'sealed: a run, the rows stored in a span of time; expired: retention removed rows, of the runs before it; reopened: '
    'the runs before it that begin at until_at or later are undone, because a clock ran ahead; dropped: an operator '
    'dropped dead letters';
COMMENT ON COLUMN risk_seal_run.until_at IS
    'How far history is sealed. A run has rows stored before; expired and dropped: as before; reopened: earlier than before';
COMMENT ON COLUMN risk_seal_run.leaves IS
    'How many leaves were sealed, have expired or are undone; dropped: how many dead letters';
COMMENT ON COLUMN risk_seal_run.rows IS
    'How many rows of history those stand for; dropped: how many snapshots';
COMMENT ON COLUMN risk_seal_run.digest IS
    'SHA-256 over the leaves of a run, or the dead letters of an entry that dropped some; of nothing in the other kinds';

CREATE TABLE risk_seal_drop (
    run bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    entry_id text COLLATE "C" NOT NULL,
    trader_id text COLLATE "C",
    epoch bigint,
    first_seq bigint,
    last_seq bigint,
    reason text NOT NULL,
    dropped_by text NOT NULL,
    database_user text NOT NULL DEFAULT session_user,
    digest bytea NOT NULL,
    CONSTRAINT risk_seal_drop_pkey PRIMARY KEY (run, stream, entry_id),
    CONSTRAINT risk_seal_drop_seq_check CHECK (
        num_nulls(trader_id, epoch, first_seq, last_seq) IN (0, 4)
        AND 1 <= first_seq AND first_seq <= last_seq AND last_seq < 9223372036854775807
    )
);
COMMENT ON TABLE risk_seal_drop IS
    'The dead letters that operators have dropped, append-only: which snapshots each stood for, and the digest of its bytes';
COMMENT ON COLUMN risk_seal_drop.run IS 'Number of the entry in the chain of seals';
COMMENT ON COLUMN risk_seal_drop.stream IS 'As in risk_dead_letter';
COMMENT ON COLUMN risk_seal_drop.entry_id IS 'As in risk_dead_letter';
COMMENT ON COLUMN risk_seal_drop.trader_id IS 'Of the snapshot; NULL: it could not be read that far';
COMMENT ON COLUMN risk_seal_drop.epoch IS 'Of the snapshot; NULL: it could not be read that far';
COMMENT ON COLUMN risk_seal_drop.first_seq IS 'Of the oldest snapshot that was conflated into it; else its own seq';
COMMENT ON COLUMN risk_seal_drop.last_seq IS 'Its seq; NULL: it could not be read that far';
COMMENT ON COLUMN risk_seal_drop.reason IS 'Why it could not be stored';
COMMENT ON COLUMN risk_seal_drop.dropped_by IS 'Who ran the command: user@host';
COMMENT ON COLUMN risk_seal_drop.database_user IS 'As which user of the database';
COMMENT ON COLUMN risk_seal_drop.digest IS 'SHA-256 of its payload';

CREATE TRIGGER risk_seal_drop_append_only_row BEFORE UPDATE OR DELETE ON risk_seal_drop
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_seal_drop_append_only_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_seal_drop
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();

-- On a hypertable all rows are in chunks. A session that keeps TimescaleDB from being loaded, or a server that runs without
-- it, would put new ones into the table itself, where no question finds them. How many this session has put there Postgres
-- counts: with TimescaleDB loaded, as it may be in the middle of a session, the table itself seems empty.
CREATE FUNCTION risk_refuse_root() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% has its rows in chunks, and this statement was made without TimescaleDB', tg_table_name
        USING HINT = 'A row beside the chunks is found by no question: see docs/retention.md.';
END
$$;
COMMENT ON FUNCTION risk_refuse_root() IS
    'Trigger: refuses rows that would come into the hypertable itself instead of a chunk';

CREATE OR REPLACE FUNCTION risk_history_to_hypertable() RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    extension_schema text;
BEGIN
    -- Where the library is not preloaded, CREATE EXTENSION is FATAL and ends the session: look first.
    -- The IFs are nested or return early because plpgsql looks up a statement's names when it comes to it.
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        RETURN 'plain table: this server does not have TimescaleDB';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
        RETURN 'plain table: TimescaleDB is not in shared_preload_libraries';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        BEGIN
            CREATE EXTENSION timescaledb;
        EXCEPTION WHEN insufficient_privilege THEN
            RETURN 'plain table: this role may not CREATE EXTENSION timescaledb; let one do so that may, '
                'then SELECT risk_history_to_hypertable()';
        END;
    END IF;
    IF EXISTS (
        SELECT FROM timescaledb_information.hypertables
        WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'risk_state_history'::regclass
    ) THEN
        RETURN 'hypertable';
    END IF;

    -- Moving rows that are there already ends in a TRUNCATE of the plain table, which this trigger refuses.
    DROP TRIGGER risk_state_history_append_only_statement ON risk_state_history;
    SELECT nspname INTO STRICT extension_schema
        FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'timescaledb';
    EXECUTE format(
        $sql$
            SELECT %1$I.create_hypertable(
                'risk_state_history',
                %1$I.by_range('recorded_at', INTERVAL '7 days'),
                create_default_indexes => false, -- the primary key does; another costs 10-15 %% of ingest
                if_not_exists => true,
                migrate_data => true)
        $sql$,
        extension_schema
    );
    CREATE TRIGGER risk_state_history_append_only_statement
        BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
        FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();
    CREATE TRIGGER risk_state_history_rows_in_chunks AFTER INSERT ON risk_state_history
        FOR EACH STATEMENT
        WHEN (
            pg_stat_get_xact_tuples_inserted('risk_state_history'::regclass) > 0
            AND pg_relation_size('risk_state_history'::regclass) > 0 -- what a plain table got before counts too
        )
        EXECUTE FUNCTION risk_refuse_root();
    RETURN 'hypertable';
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        IF EXISTS (
            SELECT FROM timescaledb_information.hypertables
            WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'risk_state_history'::regclass
        ) THEN
            CREATE TRIGGER risk_state_history_rows_in_chunks AFTER INSERT ON risk_state_history
                FOR EACH STATEMENT
                WHEN (
                    pg_stat_get_xact_tuples_inserted('risk_state_history'::regclass) > 0
                    AND pg_relation_size('risk_state_history'::regclass) > 0
                )
                EXECUTE FUNCTION risk_refuse_root();
        END IF;
    END IF;
END
$$;

-- migrate:down

DROP TRIGGER IF EXISTS risk_state_history_rows_in_chunks ON risk_state_history;

CREATE OR REPLACE FUNCTION risk_history_to_hypertable() RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    extension_schema text;
BEGIN
    -- Where the library is not preloaded, CREATE EXTENSION is FATAL and ends the session: look first.
    -- The IFs are nested or return early because plpgsql looks up a statement's names when it comes to it.
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        RETURN 'plain table: this server does not have TimescaleDB';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers') THEN
        RETURN 'plain table: TimescaleDB is not in shared_preload_libraries';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        BEGIN
            CREATE EXTENSION timescaledb;
        EXCEPTION WHEN insufficient_privilege THEN
            RETURN 'plain table: this role may not CREATE EXTENSION timescaledb; let one do so that may, '
                'then SELECT risk_history_to_hypertable()';
        END;
    END IF;
    IF EXISTS (
        SELECT FROM timescaledb_information.hypertables
        WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'risk_state_history'::regclass
    ) THEN
        RETURN 'hypertable';
    END IF;

    -- Moving rows that are there already ends in a TRUNCATE of the plain table, which this trigger refuses.
    DROP TRIGGER risk_state_history_append_only_statement ON risk_state_history;
    SELECT nspname INTO STRICT extension_schema
        FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'timescaledb';
    EXECUTE format(
        $sql$
            SELECT %1$I.create_hypertable(
                'risk_state_history',
                %1$I.by_range('recorded_at', INTERVAL '7 days'),
                create_default_indexes => false, -- the primary key does; another costs 10-15 %% of ingest
                if_not_exists => true,
                migrate_data => true)
        $sql$,
        extension_schema
    );
    CREATE TRIGGER risk_state_history_append_only_statement
        BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
        FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();
    RETURN 'hypertable';
END
$$;

DROP FUNCTION risk_refuse_root();
DROP TABLE risk_seal_drop;
-- Entries that are there stay: without them the chain would have a gap.
ALTER TABLE risk_seal_run
    DROP CONSTRAINT risk_seal_run_kind_check,
    ADD CONSTRAINT risk_seal_run_kind_check CHECK (
        kind = 'sealed' AND from_at < until_at OR kind = 'expired' AND from_at = until_at
        OR kind = 'reopened' AND from_at > until_at
    ) NOT VALID;
