SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: risk_history_to_hypertable(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.risk_history_to_hypertable() RETURNS text
    LANGUAGE plpgsql
    AS $_$
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
$_$;

--
-- Name: FUNCTION risk_history_to_hypertable(); Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON FUNCTION public.risk_history_to_hypertable() IS 'Makes risk_state_history a hypertable where TimescaleDB is loaded, and says what it is now; may be called again, as when TimescaleDB came later';

--
-- Name: risk_refuse_change(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.risk_refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        DECLARE
            entry public.risk_seal_run;
        BEGIN
            -- Chunks of a hypertable have the triggers under these names too.
            IF tg_op = 'DELETE' AND tg_name LIKE 'risk\_state\_history\_append\_only\_%' THEN
                SELECT * INTO entry FROM public.risk_seal_run ORDER BY number DESC LIMIT 1;
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
            RAISE EXCEPTION '% is append-only: % is refused', tg_table_name, tg_op
                USING HINT = 'History is an audit trail. What is wrong in it is put right by a newer snapshot.';
        END
        $$;

--
-- Name: FUNCTION risk_refuse_change(); Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON FUNCTION public.risk_refuse_change() IS 'Trigger: refuses whatever would change or remove rows';

--
-- Name: risk_refuse_closed(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.risk_refuse_closed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        DECLARE
            closed timestamptz;
        BEGIN
            LOCK TABLE public.risk_seal_mark IN ROW SHARE MODE;
            IF current_setting('transaction_isolation') = 'read committed' THEN
                SELECT closed_until INTO STRICT closed FROM public.risk_seal_mark;
            ELSE
                SELECT closed_until INTO STRICT closed FROM public.risk_seal_mark FOR SHARE;
            END IF;
            IF now() < closed THEN
                RAISE EXCEPTION 'history is closed until %, and this transaction began at %', closed, now()
                    USING ERRCODE = 'serialization_failure', HINT = 'Try it again in a new transaction.';
            END IF;
            RETURN NULL;
        END
        $$;

--
-- Name: FUNCTION risk_refuse_closed(); Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON FUNCTION public.risk_refuse_closed() IS 'Trigger: refuses rows of a transaction that began before what is closed for sealing';

--
-- Name: risk_refuse_removal(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.risk_refuse_removal() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% has exactly one row: % is refused', tg_table_name, tg_op
        USING HINT = 'riskstream rebind --new-identity gives this database another identity.';
END
$$;

--
-- Name: FUNCTION risk_refuse_removal(); Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON FUNCTION public.risk_refuse_removal() IS 'Trigger: refuses whatever would remove the row';

--
-- Name: risk_refuse_root(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.risk_refuse_root() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% has its rows in chunks, and this statement was made without TimescaleDB', tg_table_name
        USING HINT = 'A row beside the chunks is found by no question: see docs/retention.md.';
END
$$;

--
-- Name: FUNCTION risk_refuse_root(); Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON FUNCTION public.risk_refuse_root() IS 'Trigger: refuses rows that would come into the hypertable itself instead of a chunk';

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: risk_state_history; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_state_history (
    recorded_at timestamp with time zone CONSTRAINT risk_state_history_recorded_at_not_null1 NOT NULL,
    stored_at timestamp with time zone DEFAULT now() CONSTRAINT risk_state_history_stored_at_not_null1 NOT NULL,
    epoch bigint CONSTRAINT risk_state_history_epoch_not_null1 NOT NULL,
    seq bigint CONSTRAINT risk_state_history_seq_not_null1 NOT NULL,
    daily_pnl double precision CONSTRAINT risk_state_history_daily_pnl_not_null1 NOT NULL,
    drawdown_pct double precision CONSTRAINT risk_state_history_drawdown_pct_not_null1 NOT NULL,
    current_equity double precision CONSTRAINT risk_state_history_current_equity_not_null1 NOT NULL,
    peak_equity double precision CONSTRAINT risk_state_history_peak_equity_not_null1 NOT NULL,
    last_reset_time timestamp with time zone CONSTRAINT risk_state_history_last_reset_time_not_null1 NOT NULL,
    merged integer DEFAULT 0 CONSTRAINT risk_state_history_merged_not_null1 NOT NULL,
    trading_paused boolean CONSTRAINT risk_state_history_trading_paused_not_null1 NOT NULL,
    trader_id text CONSTRAINT risk_state_history_trader_id_not_null1 NOT NULL COLLATE pg_catalog."C",
    trace_id text DEFAULT ''::text CONSTRAINT risk_state_history_trace_id_not_null1 NOT NULL,
    reason text DEFAULT ''::text CONSTRAINT risk_state_history_reason_not_null1 NOT NULL,
    paused_until timestamp with time zone,
    CONSTRAINT risk_state_history_current_equity_check CHECK ((abs(current_equity) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_history_daily_pnl_check CHECK ((abs(daily_pnl) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_history_drawdown_pct_check CHECK ((abs(drawdown_pct) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_history_epoch_check CHECK ((epoch >= 1)),
    CONSTRAINT risk_state_history_peak_equity_check CHECK ((abs(peak_equity) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_history_reason_check CHECK ((length(reason) <= 1024)),
    CONSTRAINT risk_state_history_recorded_at_check CHECK (((recorded_at >= '2000-01-01 00:00:00+00'::timestamp with time zone) AND (recorded_at < 'infinity'::timestamp with time zone))),
    CONSTRAINT risk_state_history_seq_check CHECK (((0 <= merged) AND (merged < seq))),
    CONSTRAINT risk_state_history_trace_id_check CHECK ((length(trace_id) <= 255)),
    CONSTRAINT risk_state_history_trader_id_check CHECK (((length(trader_id) >= 1) AND (length(trader_id) <= 255)))
);

--
-- Name: TABLE risk_state_history; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_state_history IS 'Every accepted snapshot, exactly once; append-only; a hypertable where TimescaleDB is loaded';

--
-- Name: COLUMN risk_state_history.recorded_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.recorded_at IS 'When the trader took the snapshot, by its own clock; the partition column';

--
-- Name: COLUMN risk_state_history.stored_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.stored_at IS 'When the transaction that stored the row began, by the database''s clock';

--
-- Name: COLUMN risk_state_history.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.epoch IS 'One incarnation of a producer for this trader; a newer epoch fences an older one';

--
-- Name: COLUMN risk_state_history.seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.seq IS 'Counts the trader''s snapshots within the epoch without gaps: 1, 2, 3, ...; a gap is a lost snapshot';

--
-- Name: COLUMN risk_state_history.daily_pnl; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.daily_pnl IS 'Profit and loss since last_reset_time, in the account''s currency';

--
-- Name: COLUMN risk_state_history.drawdown_pct; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.drawdown_pct IS 'Distance of current_equity below peak_equity, in percent';

--
-- Name: COLUMN risk_state_history.current_equity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.current_equity IS 'Equity, in the account''s currency';

--
-- Name: COLUMN risk_state_history.peak_equity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.peak_equity IS 'Highest equity so far, in the account''s currency';

--
-- Name: COLUMN risk_state_history.last_reset_time; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.last_reset_time IS 'When daily_pnl was last set to zero';

--
-- Name: COLUMN risk_state_history.merged; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.merged IS 'How many older snapshots this one stands for (conflated): seq - merged up to seq - 1';

--
-- Name: COLUMN risk_state_history.trading_paused; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.trading_paused IS 'Whether the trader has stopped trading';

--
-- Name: COLUMN risk_state_history.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.trader_id IS 'Who: 1 to 255 characters';

--
-- Name: COLUMN risk_state_history.trace_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.trace_id IS 'Finds the snapshot in the trader''s own logs; up to 255 characters';

--
-- Name: COLUMN risk_state_history.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.reason IS 'Why the state changed; up to 1024 characters';

--
-- Name: COLUMN risk_state_history.paused_until; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state_history.paused_until IS 'When the trader means to go on; NULL: not paused, or without an end';

--
-- Name: risk_daily; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.risk_daily AS
 SELECT trader_id,
    date_bin('1 day'::interval, recorded_at, '2000-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
    (min(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity, daily_pnl]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity, daily_pnl]))[5] AS daily_pnl,
    ((count(*) FILTER (WHERE trading_paused))::double precision / (count(*))::double precision) AS paused_share,
    count(*) AS snapshots
   FROM public.risk_state_history
  GROUP BY trader_id, (date_bin('1 day'::interval, recorded_at, '2000-01-01 00:00:00+00'::timestamp with time zone));

--
-- Name: VIEW risk_daily; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON VIEW public.risk_daily IS 'Days (UTC) of each trader: open, high, low, close of current_equity, worst_drawdown_pct, the last daily_pnl, paused_share (0 to 1, of the snapshots), snapshots; docs/retention.md';

--
-- Name: risk_dead_letter; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_dead_letter (
    stream text NOT NULL COLLATE pg_catalog."C",
    entry_id text NOT NULL COLLATE pg_catalog."C",
    failed_at timestamp with time zone DEFAULT now() NOT NULL,
    reason text NOT NULL,
    sqlstate text,
    trader_id text COLLATE pg_catalog."C",
    epoch bigint,
    seq bigint,
    payload bytea NOT NULL
);

--
-- Name: TABLE risk_dead_letter; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_dead_letter IS 'Stream entries that could not be stored: why, and their original bytes; an operator may retry or drop them';

--
-- Name: COLUMN risk_dead_letter.stream; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.stream IS 'Redis key of the stream the entry was in';

--
-- Name: COLUMN risk_dead_letter.entry_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.entry_id IS 'Id of the entry in the stream, like 1764000000000-0';

--
-- Name: COLUMN risk_dead_letter.failed_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.failed_at IS 'When it was put here, by the database''s clock';

--
-- Name: COLUMN risk_dead_letter.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.reason IS 'What is wrong with it';

--
-- Name: COLUMN risk_dead_letter.sqlstate; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.sqlstate IS 'The database''s error code; NULL: it never came to the database';

--
-- Name: COLUMN risk_dead_letter.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.trader_id IS 'Of the snapshot; NULL: it could not be read that far';

--
-- Name: COLUMN risk_dead_letter.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.epoch IS 'Of the snapshot; NULL: it could not be read that far';

--
-- Name: COLUMN risk_dead_letter.seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.seq IS 'Of the snapshot; NULL: it could not be read that far';

--
-- Name: COLUMN risk_dead_letter.payload; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_dead_letter.payload IS 'The bytes of the entry, as they came';

--
-- Name: risk_deployment; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_deployment (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    partitions smallint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    other_partitions smallint[] DEFAULT '{}'::smallint[] NOT NULL,
    partitioning_version integer DEFAULT 0 NOT NULL,
    CONSTRAINT risk_deployment_other_partitions_check CHECK (((1 <= ALL (other_partitions)) AND (256 >= ALL (other_partitions)))),
    CONSTRAINT risk_deployment_partitioning_version_check CHECK ((partitioning_version >= 0)),
    CONSTRAINT risk_deployment_partitions_check CHECK (((partitions >= 1) AND (partitions <= 256)))
);

--
-- Name: TABLE risk_deployment; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_deployment IS 'What this database is in one row: which deployment''s, and how it is divided';

--
-- Name: COLUMN risk_deployment.id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_deployment.id IS 'The identity of this database; workers write it beside the stream, so that no other database is filled from it';

--
-- Name: COLUMN risk_deployment.partitions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_deployment.partitions IS 'How many partitions traders and workers have agreed on; NULL: nothing is agreed on yet';

--
-- Name: COLUMN risk_deployment.created_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_deployment.created_at IS 'When the row was made, by the database''s clock';

--
-- Name: COLUMN risk_deployment.other_partitions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_deployment.other_partitions IS 'Former numbers of partitions, or the one that comes next: traders may have snapshots where these divide them';

--
-- Name: COLUMN risk_deployment.partitioning_version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_deployment.partitioning_version IS 'Grows with each change of the two; the greater one counts, of Redis'' and this';

--
-- Name: risk_epoch_total; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_epoch_total (
    trader_id text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    rows bigint NOT NULL,
    merged bigint NOT NULL,
    covered int8multirange NOT NULL,
    expired bigint DEFAULT 0 NOT NULL
);

--
-- Name: TABLE risk_epoch_total; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_epoch_total IS 'The sum of the leaves of each epoch of a trader, of all runs that are not undone';

--
-- Name: COLUMN risk_epoch_total.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.trader_id IS 'Of the leaves';

--
-- Name: COLUMN risk_epoch_total.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.epoch IS 'Of the leaves';

--
-- Name: COLUMN risk_epoch_total.rows; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.rows IS 'Sum of their rows';

--
-- Name: COLUMN risk_epoch_total.merged; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.merged IS 'Sum of their merged';

--
-- Name: COLUMN risk_epoch_total.covered; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.covered IS 'Union of their covered';

--
-- Name: COLUMN risk_epoch_total.expired; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_epoch_total.expired IS 'How many of the rows retention has removed';

--
-- Name: risk_hourly; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.risk_hourly AS
 SELECT trader_id,
    date_bin('01:00:00'::interval, recorded_at, '2000-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
    (min(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity, daily_pnl]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[date_part('epoch'::text, (recorded_at - '2000-01-01 00:00:00+00'::timestamp with time zone)), (epoch)::double precision, (seq)::double precision, current_equity, daily_pnl]))[5] AS daily_pnl,
    ((count(*) FILTER (WHERE trading_paused))::double precision / (count(*))::double precision) AS paused_share,
    count(*) AS snapshots
   FROM public.risk_state_history
  GROUP BY trader_id, (date_bin('01:00:00'::interval, recorded_at, '2000-01-01 00:00:00+00'::timestamp with time zone));

--
-- Name: VIEW risk_hourly; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON VIEW public.risk_hourly IS 'Hours (UTC) of each trader: open, high, low, close of current_equity, worst_drawdown_pct, the last daily_pnl, paused_share (0 to 1, of the snapshots), snapshots; docs/retention.md';

--
-- Name: risk_known_loss; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_known_loss (
    number bigint NOT NULL,
    trader_id text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    undoes bigint,
    reason text NOT NULL,
    recorded_by text NOT NULL,
    database_user text DEFAULT SESSION_USER NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT risk_known_loss_reason_check CHECK ((btrim(reason) <> ''::text)),
    CONSTRAINT risk_known_loss_seq_check CHECK (((1 <= first_seq) AND (first_seq <= last_seq)))
);

--
-- Name: TABLE risk_known_loss; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_known_loss IS 'Lost snapshots that an operator has accepted as lost, so that verify does not count them; append-only';

--
-- Name: COLUMN risk_known_loss.number; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.number IS 'Counts the entries';

--
-- Name: COLUMN risk_known_loss.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.trader_id IS 'Of the lost snapshots';

--
-- Name: COLUMN risk_known_loss.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.epoch IS 'Of the lost snapshots';

--
-- Name: COLUMN risk_known_loss.first_seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.first_seq IS 'The first seq that is lost';

--
-- Name: COLUMN risk_known_loss.last_seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.last_seq IS 'The last seq that is lost';

--
-- Name: COLUMN risk_known_loss.undoes; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.undoes IS 'The number of the entry that does not hold any more from here on; NULL: this entry accepts a loss';

--
-- Name: COLUMN risk_known_loss.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.reason IS 'Why, in the operator''s words';

--
-- Name: COLUMN risk_known_loss.recorded_by; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.recorded_by IS 'Who ran the command: user@host';

--
-- Name: COLUMN risk_known_loss.database_user; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.database_user IS 'As which user of the database';

--
-- Name: COLUMN risk_known_loss.recorded_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_known_loss.recorded_at IS 'When, by the database''s clock';

--
-- Name: risk_known_loss_number_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.risk_known_loss ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.risk_known_loss_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: risk_state; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_state (
    trader_id text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    daily_pnl double precision NOT NULL,
    drawdown_pct double precision NOT NULL,
    current_equity double precision NOT NULL,
    peak_equity double precision NOT NULL,
    trading_paused boolean NOT NULL,
    paused_until timestamp with time zone,
    last_reset_time timestamp with time zone NOT NULL,
    trace_id text DEFAULT ''::text NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    namespace text COLLATE pg_catalog."C",
    CONSTRAINT risk_state_current_equity_check CHECK ((abs(current_equity) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_daily_pnl_check CHECK ((abs(daily_pnl) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_drawdown_pct_check CHECK ((abs(drawdown_pct) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_epoch_check CHECK ((epoch >= 1)),
    CONSTRAINT risk_state_namespace_check CHECK ((namespace <> ''::text)),
    CONSTRAINT risk_state_peak_equity_check CHECK ((abs(peak_equity) < 'Infinity'::double precision)),
    CONSTRAINT risk_state_reason_check CHECK ((length(reason) <= 1024)),
    CONSTRAINT risk_state_recorded_at_check CHECK (((recorded_at >= '2000-01-01 00:00:00+00'::timestamp with time zone) AND (recorded_at < 'infinity'::timestamp with time zone))),
    CONSTRAINT risk_state_seq_check CHECK ((seq >= 1)),
    CONSTRAINT risk_state_trace_id_check CHECK ((length(trace_id) <= 255)),
    CONSTRAINT risk_state_trader_id_check CHECK (((length(trader_id) >= 1) AND (length(trader_id) <= 255)))
)
WITH (fillfactor='70');

--
-- Name: TABLE risk_state; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_state IS 'The newest stored snapshot of each trader; never goes back in (epoch, seq)';

--
-- Name: COLUMN risk_state.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.trader_id IS 'Who: 1 to 255 characters';

--
-- Name: COLUMN risk_state.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.epoch IS 'One incarnation of a producer for this trader; a newer epoch fences an older one';

--
-- Name: COLUMN risk_state.seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.seq IS 'Counts the trader''s snapshots within the epoch: 1, 2, 3, ...';

--
-- Name: COLUMN risk_state.recorded_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.recorded_at IS 'When the trader took the snapshot, by its own clock';

--
-- Name: COLUMN risk_state.daily_pnl; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.daily_pnl IS 'Profit and loss since last_reset_time, in the account''s currency';

--
-- Name: COLUMN risk_state.drawdown_pct; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.drawdown_pct IS 'Distance of current_equity below peak_equity, in percent';

--
-- Name: COLUMN risk_state.current_equity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.current_equity IS 'Equity, in the account''s currency';

--
-- Name: COLUMN risk_state.peak_equity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.peak_equity IS 'Highest equity so far, in the account''s currency';

--
-- Name: COLUMN risk_state.trading_paused; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.trading_paused IS 'Whether the trader has stopped trading';

--
-- Name: COLUMN risk_state.paused_until; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.paused_until IS 'When the trader means to go on; NULL: not paused, or without an end';

--
-- Name: COLUMN risk_state.last_reset_time; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.last_reset_time IS 'When daily_pnl was last set to zero';

--
-- Name: COLUMN risk_state.trace_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.trace_id IS 'Finds the snapshot in the trader''s own logs; up to 255 characters';

--
-- Name: COLUMN risk_state.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.reason IS 'Why the state changed; up to 1024 characters';

--
-- Name: COLUMN risk_state.updated_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.updated_at IS 'When this row was last written, by the database''s clock';

--
-- Name: COLUMN risk_state.namespace; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_state.namespace IS 'The only namespace that may report this trader: of its first snapshot; NULL: RISK_NAMESPACES was not in use then';

--
-- Name: risk_pauses; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.risk_pauses AS
 SELECT began.trader_id,
    began.recorded_at AS since,
    ended.recorded_at AS until,
    (EXTRACT(epoch FROM (COALESCE(ended.recorded_at, now()) - began.recorded_at)))::double precision AS lasted_s,
    began.reason,
    began.trace_id,
    began.paused_until,
    began.daily_pnl,
    began.drawdown_pct,
    began.current_equity,
    began.epoch,
    began.seq
   FROM (((public.risk_state each
     JOIN public.risk_state_history began ON ((began.trader_id = each.trader_id)))
     LEFT JOIN LATERAL ( SELECT risk_state_history.trading_paused
           FROM public.risk_state_history
          WHERE ((risk_state_history.trader_id = began.trader_id) AND (risk_state_history.recorded_at <= began.recorded_at) AND (ROW(risk_state_history.recorded_at, risk_state_history.epoch, risk_state_history.seq) < ROW(began.recorded_at, began.epoch, began.seq)))
          ORDER BY risk_state_history.recorded_at DESC, risk_state_history.epoch DESC, risk_state_history.seq DESC
         LIMIT 1) before ON (true))
     LEFT JOIN LATERAL ( SELECT risk_state_history.recorded_at
           FROM public.risk_state_history
          WHERE ((risk_state_history.trader_id = began.trader_id) AND (NOT risk_state_history.trading_paused) AND (risk_state_history.recorded_at >= began.recorded_at) AND (ROW(risk_state_history.recorded_at, risk_state_history.epoch, risk_state_history.seq) > ROW(began.recorded_at, began.epoch, began.seq)))
          ORDER BY risk_state_history.recorded_at, risk_state_history.epoch, risk_state_history.seq
         LIMIT 1) ended ON (true))
  WHERE (began.trading_paused AND (before.trading_paused IS NOT TRUE));

--
-- Name: VIEW risk_pauses; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON VIEW public.risk_pauses IS 'Pauses of each trader: since and until (NULL: not over yet), lasted_s (seconds, until now where it is not over), and of the snapshot that began it reason, trace_id, paused_until, daily_pnl, drawdown_pct, current_equity, epoch, seq; docs/questions.md';

--
-- Name: risk_seal; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_seal (
    run bigint NOT NULL,
    trader_id text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    day date NOT NULL,
    rows bigint NOT NULL,
    merged bigint NOT NULL,
    covered int8multirange NOT NULL,
    digest bytea NOT NULL
);

--
-- Name: TABLE risk_seal; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_seal IS 'The leaves of the seals, append-only: what a run has of a trader, an epoch and a UTC day of recorded_at';

--
-- Name: COLUMN risk_seal.run; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.run IS 'Number of the run';

--
-- Name: COLUMN risk_seal.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.trader_id IS 'Of the rows';

--
-- Name: COLUMN risk_seal.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.epoch IS 'Of the rows';

--
-- Name: COLUMN risk_seal.day; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.day IS 'UTC day of recorded_at of the rows';

--
-- Name: COLUMN risk_seal.rows; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.rows IS 'How many rows of history it stands for';

--
-- Name: COLUMN risk_seal.merged; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.merged IS 'Sum of their merged';

--
-- Name: COLUMN risk_seal.covered; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.covered IS 'The seq numbers that they stand for, with the merged ones';

--
-- Name: COLUMN risk_seal.digest; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal.digest IS 'SHA-256 over the SHA-256 of each row, in the order of seq and recorded_at';

--
-- Name: risk_seal_drop; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_seal_drop (
    run bigint NOT NULL,
    stream text NOT NULL COLLATE pg_catalog."C",
    entry_id text NOT NULL COLLATE pg_catalog."C",
    trader_id text COLLATE pg_catalog."C",
    epoch bigint,
    first_seq bigint,
    last_seq bigint,
    reason text NOT NULL,
    dropped_by text NOT NULL,
    database_user text DEFAULT SESSION_USER NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT risk_seal_drop_seq_check CHECK (((num_nulls(trader_id, epoch, first_seq, last_seq) = ANY (ARRAY[0, 4])) AND (1 <= first_seq) AND (first_seq <= last_seq) AND (last_seq < '9223372036854775807'::bigint)))
);

--
-- Name: TABLE risk_seal_drop; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_seal_drop IS 'The dead letters that operators have dropped, append-only: which snapshots each stood for, and the digest of its bytes';

--
-- Name: COLUMN risk_seal_drop.run; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.run IS 'Number of the entry in the chain of seals';

--
-- Name: COLUMN risk_seal_drop.stream; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.stream IS 'As in risk_dead_letter';

--
-- Name: COLUMN risk_seal_drop.entry_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.entry_id IS 'As in risk_dead_letter';

--
-- Name: COLUMN risk_seal_drop.trader_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.trader_id IS 'Of the snapshot; NULL: it could not be read that far';

--
-- Name: COLUMN risk_seal_drop.epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.epoch IS 'Of the snapshot; NULL: it could not be read that far';

--
-- Name: COLUMN risk_seal_drop.first_seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.first_seq IS 'Of the oldest snapshot that was conflated into it; else its own seq';

--
-- Name: COLUMN risk_seal_drop.last_seq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.last_seq IS 'Its seq; NULL: it could not be read that far';

--
-- Name: COLUMN risk_seal_drop.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.reason IS 'Why it could not be stored';

--
-- Name: COLUMN risk_seal_drop.dropped_by; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.dropped_by IS 'Who ran the command: user@host';

--
-- Name: COLUMN risk_seal_drop.database_user; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.database_user IS 'As which user of the database';

--
-- Name: COLUMN risk_seal_drop.digest; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_drop.digest IS 'SHA-256 of its payload';

--
-- Name: risk_seal_mark; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_seal_mark (
    singleton boolean DEFAULT true NOT NULL,
    closed_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT risk_seal_mark_singleton_check CHECK (singleton)
);

--
-- Name: TABLE risk_seal_mark; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_seal_mark IS 'One row: how far history is closed. Its locks tell who inserts and who seals';

--
-- Name: COLUMN risk_seal_mark.singleton; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_mark.singleton IS 'true: there is one row';

--
-- Name: COLUMN risk_seal_mark.closed_until; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_mark.closed_until IS 'No transaction that began earlier may insert into history any more';

--
-- Name: risk_seal_run; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.risk_seal_run (
    number bigint NOT NULL,
    version integer NOT NULL,
    kind text NOT NULL,
    from_at timestamp with time zone NOT NULL,
    until_at timestamp with time zone NOT NULL,
    expired_until date,
    leaves bigint NOT NULL,
    rows bigint NOT NULL,
    digest bytea NOT NULL,
    previous bytea,
    head bytea NOT NULL,
    sealed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT risk_seal_run_expired_until_check CHECK (((kind = 'expired'::text) = (expired_until IS NOT NULL))),
    CONSTRAINT risk_seal_run_kind_check CHECK ((((kind = 'sealed'::text) AND (from_at < until_at)) OR ((kind = ANY (ARRAY['expired'::text, 'dropped'::text])) AND (from_at = until_at)) OR ((kind = 'reopened'::text) AND (from_at > until_at)))),
    CONSTRAINT risk_seal_run_number_check CHECK ((number >= 1))
);

--
-- Name: TABLE risk_seal_run; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.risk_seal_run IS 'The chain of seals, append-only: each entry names the head before it, and begins where that one ended';

--
-- Name: COLUMN risk_seal_run.number; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.number IS 'Counts the entries: 1, 2, 3, ...';

--
-- Name: COLUMN risk_seal_run.version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.version IS 'How the digests are made; docs/audit.md has each version';

--
-- Name: COLUMN risk_seal_run.kind; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.kind IS 'sealed: a run, the rows stored in a span of time; expired: retention removed rows, of the runs before it; reopened: the runs before it that begin at until_at or later are undone, because a clock ran ahead; dropped: an operator dropped dead letters';

--
-- Name: COLUMN risk_seal_run.from_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.from_at IS 'Where the entry before ended; -infinity in the first. A run has rows stored then or later';

--
-- Name: COLUMN risk_seal_run.until_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.until_at IS 'How far history is sealed. A run has rows stored before; expired and dropped: as before; reopened: earlier than before';

--
-- Name: COLUMN risk_seal_run.expired_until; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.expired_until IS 'expired: the leaves before it of an earlier UTC day have no rows any more; NULL: it is of another kind';

--
-- Name: COLUMN risk_seal_run.leaves; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.leaves IS 'How many leaves were sealed, have expired or are undone; dropped: how many dead letters';

--
-- Name: COLUMN risk_seal_run.rows; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.rows IS 'How many rows of history those stand for; dropped: how many snapshots';

--
-- Name: COLUMN risk_seal_run.digest; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.digest IS 'SHA-256 over the leaves of a run, or the dead letters of an entry that dropped some; of nothing in the other kinds';

--
-- Name: COLUMN risk_seal_run.previous; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.previous IS 'The head of the entry before; NULL: it is the first';

--
-- Name: COLUMN risk_seal_run.head; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.head IS 'SHA-256 over the other columns but sealed_at';

--
-- Name: COLUMN risk_seal_run.sealed_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.risk_seal_run.sealed_at IS 'When it was sealed; not part of the head';

--
-- Name: risk_silence; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.risk_silence AS
 SELECT trader_id,
    (EXTRACT(epoch FROM (now() - LEAST(recorded_at, updated_at))))::double precision AS silent_s,
    recorded_at,
    updated_at AS stored_at,
    trading_paused,
    daily_pnl,
    drawdown_pct,
    current_equity,
    reason,
    epoch,
    seq
   FROM public.risk_state;

--
-- Name: VIEW risk_silence; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON VIEW public.risk_silence IS 'How long each trader has been silent: silent_s (seconds since the newest snapshot was recorded or stored, whichever is longer ago), and its recorded_at, stored_at, trading_paused, daily_pnl, drawdown_pct, current_equity, reason, epoch, seq; docs/questions.md';

--
-- Name: schema_migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.schema_migrations (
    version character varying NOT NULL
);

--
-- Name: risk_dead_letter risk_dead_letter_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_dead_letter
    ADD CONSTRAINT risk_dead_letter_pkey PRIMARY KEY (stream, entry_id);

--
-- Name: risk_deployment risk_deployment_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_deployment
    ADD CONSTRAINT risk_deployment_pkey PRIMARY KEY (id);

--
-- Name: risk_epoch_total risk_epoch_total_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_epoch_total
    ADD CONSTRAINT risk_epoch_total_pkey PRIMARY KEY (trader_id, epoch);

--
-- Name: risk_known_loss risk_known_loss_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_known_loss
    ADD CONSTRAINT risk_known_loss_pkey PRIMARY KEY (number);

--
-- Name: risk_known_loss risk_known_loss_undoes_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_known_loss
    ADD CONSTRAINT risk_known_loss_undoes_key UNIQUE (undoes);

--
-- Name: risk_seal_drop risk_seal_drop_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_seal_drop
    ADD CONSTRAINT risk_seal_drop_pkey PRIMARY KEY (run, stream, entry_id);

--
-- Name: risk_seal_mark risk_seal_mark_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_seal_mark
    ADD CONSTRAINT risk_seal_mark_pkey PRIMARY KEY (singleton);

--
-- Name: risk_seal risk_seal_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_seal
    ADD CONSTRAINT risk_seal_pkey PRIMARY KEY (run, trader_id, epoch, day);

--
-- Name: risk_seal_run risk_seal_run_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_seal_run
    ADD CONSTRAINT risk_seal_run_pkey PRIMARY KEY (number);

--
-- Name: risk_state_history risk_state_history_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_state_history
    ADD CONSTRAINT risk_state_history_pkey PRIMARY KEY (trader_id, recorded_at, epoch, seq);

--
-- Name: risk_state risk_state_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_state
    ADD CONSTRAINT risk_state_pkey PRIMARY KEY (trader_id);

--
-- Name: schema_migrations schema_migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

--
-- Name: risk_deployment_one_row; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX risk_deployment_one_row ON public.risk_deployment USING btree ((true));

--
-- Name: risk_seal_day; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX risk_seal_day ON public.risk_seal USING brin (day) WITH (autosummarize='on');

--
-- Name: risk_state_history_stored_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX risk_state_history_stored_at ON public.risk_state_history USING brin (stored_at) WITH (pages_per_range='32', autosummarize='on');

--
-- Name: risk_deployment risk_deployment_keep_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_deployment_keep_row BEFORE DELETE OR TRUNCATE ON public.risk_deployment FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_removal();

--
-- Name: risk_known_loss risk_known_loss_append_only_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_known_loss_append_only_row BEFORE DELETE OR UPDATE ON public.risk_known_loss FOR EACH ROW EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_known_loss risk_known_loss_append_only_statement; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_known_loss_append_only_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON public.risk_known_loss FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal risk_seal_append_only_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_append_only_row BEFORE DELETE OR UPDATE ON public.risk_seal FOR EACH ROW EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal risk_seal_append_only_statement; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_append_only_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON public.risk_seal FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal_drop risk_seal_drop_append_only_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_drop_append_only_row BEFORE DELETE OR UPDATE ON public.risk_seal_drop FOR EACH ROW EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal_drop risk_seal_drop_append_only_statement; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_drop_append_only_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON public.risk_seal_drop FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal_run risk_seal_run_append_only_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_run_append_only_row BEFORE DELETE OR UPDATE ON public.risk_seal_run FOR EACH ROW EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_seal_run risk_seal_run_append_only_statement; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_seal_run_append_only_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON public.risk_seal_run FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_state_history risk_state_history_append_only_row; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_state_history_append_only_row BEFORE DELETE OR UPDATE ON public.risk_state_history FOR EACH ROW EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_state_history risk_state_history_append_only_statement; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_state_history_append_only_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON public.risk_state_history FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_change();

--
-- Name: risk_state_history risk_state_history_closed; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER risk_state_history_closed BEFORE INSERT ON public.risk_state_history FOR EACH STATEMENT EXECUTE FUNCTION public.risk_refuse_closed();

--
-- Name: risk_known_loss risk_known_loss_undoes_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.risk_known_loss
    ADD CONSTRAINT risk_known_loss_undoes_fkey FOREIGN KEY (undoes) REFERENCES public.risk_known_loss(number);

--
-- PostgreSQL database dump complete
--

--
-- Dbmate schema migrations
--

INSERT INTO public.schema_migrations (version) VALUES
    ('20261124000001'),
    ('20261124000002'),
    ('20261126000001'),
    ('20261126000002'),
    ('20261126000003'),
    ('20261126000004'),
    ('20261126000005'),
    ('20261126000007'),
    ('20261126000008'),
    ('20261126000009'),
    ('20261126000011');
