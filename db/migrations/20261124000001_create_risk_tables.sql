-- migrate:up

-- COLLATE "C": ids are compared for order and equality only. Byte order is the quickest to compare, and an
-- index in it survives an upgrade of the operating system's locale data.

CREATE TABLE risk_state (
    trader_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    daily_pnl double precision NOT NULL,
    drawdown_pct double precision NOT NULL,
    current_equity double precision NOT NULL,
    peak_equity double precision NOT NULL,
    trading_paused boolean NOT NULL,
    paused_until timestamptz,
    last_reset_time timestamptz NOT NULL,
    trace_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT risk_state_pkey PRIMARY KEY (trader_id),
    CONSTRAINT risk_state_trader_id_check CHECK (length(trader_id) BETWEEN 1 AND 255),
    CONSTRAINT risk_state_epoch_check CHECK (epoch >= 1),
    CONSTRAINT risk_state_seq_check CHECK (seq >= 1),
    CONSTRAINT risk_state_recorded_at_check
        CHECK (recorded_at >= '2000-01-01 00:00:00+00' AND recorded_at < 'infinity'),
    CONSTRAINT risk_state_daily_pnl_check CHECK (abs(daily_pnl) < 'infinity'),
    CONSTRAINT risk_state_drawdown_pct_check CHECK (abs(drawdown_pct) < 'infinity'),
    CONSTRAINT risk_state_current_equity_check CHECK (abs(current_equity) < 'infinity'),
    CONSTRAINT risk_state_peak_equity_check CHECK (abs(peak_equity) < 'infinity'),
    CONSTRAINT risk_state_trace_id_check CHECK (length(trace_id) <= 255),
    CONSTRAINT risk_state_reason_check CHECK (length(reason) <= 1024)
) WITH (fillfactor = 70); -- room on each page, so that an update stays on it and touches no index (HOT)

COMMENT ON TABLE risk_state IS
    'The newest stored snapshot of each trader; never goes back in (epoch, seq)';
COMMENT ON COLUMN risk_state.trader_id IS 'Who: 1 to 255 characters';
COMMENT ON COLUMN risk_state.epoch IS
    'One incarnation of a producer for this trader; a newer epoch fences an older one';
COMMENT ON COLUMN risk_state.seq IS 'Counts the trader''s snapshots within the epoch: 1, 2, 3, ...';
COMMENT ON COLUMN risk_state.recorded_at IS 'When the trader took the snapshot, by its own clock';
COMMENT ON COLUMN risk_state.daily_pnl IS
    'Profit and loss since last_reset_time, in the account''s currency';
COMMENT ON COLUMN risk_state.drawdown_pct IS 'Distance of current_equity below peak_equity, in percent';
COMMENT ON COLUMN risk_state.current_equity IS 'Equity, in the account''s currency';
COMMENT ON COLUMN risk_state.peak_equity IS 'Highest equity so far, in the account''s currency';
COMMENT ON COLUMN risk_state.trading_paused IS 'Whether the trader has stopped trading';
COMMENT ON COLUMN risk_state.paused_until IS
    'When the trader means to go on; NULL: not paused, or without an end';
COMMENT ON COLUMN risk_state.last_reset_time IS 'When daily_pnl was last set to zero';
COMMENT ON COLUMN risk_state.trace_id IS 'Finds the snapshot in the trader''s own logs; up to 255 characters';
COMMENT ON COLUMN risk_state.reason IS 'Why the state changed; up to 1024 characters';
COMMENT ON COLUMN risk_state.updated_at IS 'When this row was last written, by the database''s clock';

CREATE TABLE risk_state_history (
    trader_id text COLLATE "C" NOT NULL,
    recorded_at timestamptz NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    trace_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    daily_pnl double precision NOT NULL,
    drawdown_pct double precision NOT NULL,
    current_equity double precision NOT NULL,
    peak_equity double precision NOT NULL,
    trading_paused boolean NOT NULL,
    paused_until timestamptz,
    last_reset_time timestamptz NOT NULL,
    merged integer NOT NULL DEFAULT 0,
    stored_at timestamptz NOT NULL DEFAULT now(),
    -- The identity of a snapshot, which makes a replay a no-op; and the one index that is needed:
    -- it also answers "the last N of this trader".
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

CREATE FUNCTION risk_refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', tg_table_name, tg_op
        USING HINT = 'History is an audit trail. What is wrong in it is put right by a newer snapshot.';
END
$$;
COMMENT ON FUNCTION risk_refuse_change() IS 'Trigger: refuses whatever would change or remove rows';

-- Both kinds: a statement's trigger also refuses where no row is met, and TRUNCATE; a row's trigger is
-- what TimescaleDB carries over to the chunks.
CREATE TRIGGER risk_state_history_append_only_row
    BEFORE UPDATE OR DELETE ON risk_state_history
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_state_history_append_only_statement
    BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_state_history
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();

CREATE TABLE risk_dead_letter (
    stream text COLLATE "C" NOT NULL,
    entry_id text COLLATE "C" NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    sqlstate text,
    trader_id text COLLATE "C",
    epoch bigint,
    seq bigint,
    payload bytea NOT NULL,
    CONSTRAINT risk_dead_letter_pkey PRIMARY KEY (stream, entry_id)
);

COMMENT ON TABLE risk_dead_letter IS
    'Stream entries that could not be stored: why, and their original bytes; an operator may retry or drop them';
COMMENT ON COLUMN risk_dead_letter.stream IS 'Redis key of the stream the entry was in';
COMMENT ON COLUMN risk_dead_letter.entry_id IS 'Id of the entry in the stream, like 1764000000000-0';
COMMENT ON COLUMN risk_dead_letter.failed_at IS 'When it was put here, by the database''s clock';
COMMENT ON COLUMN risk_dead_letter.reason IS 'What is wrong with it';
COMMENT ON COLUMN risk_dead_letter.sqlstate IS
    'The database''s error code; NULL: it never came to the database';
COMMENT ON COLUMN risk_dead_letter.trader_id IS 'Of the snapshot; NULL: it could not be read that far';
COMMENT ON COLUMN risk_dead_letter.epoch IS 'Of the snapshot; NULL: it could not be read that far';
COMMENT ON COLUMN risk_dead_letter.seq IS 'Of the snapshot; NULL: it could not be read that far';
COMMENT ON COLUMN risk_dead_letter.payload IS 'The bytes of the entry, as they came';

-- migrate:down

DROP TABLE risk_dead_letter;
DROP TABLE risk_state_history;
DROP FUNCTION risk_refuse_change();
DROP TABLE risk_state;
