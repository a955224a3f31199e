-- migrate:up

CREATE TABLE risk_seal_mark (
    singleton boolean NOT NULL DEFAULT true,
    closed_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT risk_seal_mark_pkey PRIMARY KEY (singleton),
    CONSTRAINT risk_seal_mark_singleton_check CHECK (singleton)
);
COMMENT ON TABLE risk_seal_mark IS 'One row: how far history is closed. Its locks tell who inserts and who seals';
COMMENT ON COLUMN risk_seal_mark.singleton IS 'true: there is one row';
COMMENT ON COLUMN risk_seal_mark.closed_until IS 'No transaction that began earlier may insert into history any more';
INSERT INTO risk_seal_mark DEFAULT VALUES;

CREATE TABLE risk_seal_run (
    number bigint NOT NULL,
    version integer NOT NULL,
    kind text NOT NULL,
    from_at timestamptz NOT NULL,
    until_at timestamptz NOT NULL,
    expired_until date,
    leaves bigint NOT NULL,
    rows bigint NOT NULL,
    digest bytea NOT NULL,
    previous bytea,
    head bytea NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT risk_seal_run_pkey PRIMARY KEY (number),
    CONSTRAINT risk_seal_run_number_check CHECK (number >= 1),
    CONSTRAINT risk_seal_run_kind_check CHECK (
        kind = 'sealed' AND from_at < until_at OR kind = 'expired' AND from_at = until_at
        OR kind = 'reopened' AND from_at > until_at
    ),
    CONSTRAINT risk_seal_run_expired_until_check CHECK ((kind = 'expired') = (expired_until IS NOT NULL))
);
COMMENT ON TABLE risk_seal_run IS
    'The chain of seals, append-only: each entry names the head before it, and begins where that one ended';
COMMENT ON COLUMN risk_seal_run.number IS 'Counts the entries: 1, 2, 3, ...';
COMMENT ON COLUMN risk_seal_run.version IS 'How the digests are made; docs/audit.md has each version';
COMMENT ON COLUMN risk_seal_run.kind IS
    'sealed: a run, the rows stored in a span of time; expired: retention removed rows, of the runs before it; reopened: '
    'the runs before it that begin at until_at or later are undone, because a clock ran ahead';
COMMENT ON COLUMN risk_seal_run.from_at IS 'Where the entry before ended; -infinity in the first. A run has rows stored then or later';
COMMENT ON COLUMN risk_seal_run.until_at IS
    'How far history is sealed. A run has rows stored before; expired: as before; reopened: earlier than before';
COMMENT ON COLUMN risk_seal_run.expired_until IS
    'expired: the leaves before it of an earlier UTC day have no rows any more; NULL: it is of another kind';
COMMENT ON COLUMN risk_seal_run.leaves IS 'How many leaves were sealed, have expired or are undone';
COMMENT ON COLUMN risk_seal_run.rows IS 'How many rows of history those stand for';
COMMENT ON COLUMN risk_seal_run.digest IS 'SHA-256 over the leaves of a run; of nothing in the other kinds';
COMMENT ON COLUMN risk_seal_run.previous IS 'The head of the entry before; NULL: it is the first';
COMMENT ON COLUMN risk_seal_run.head IS 'SHA-256 over the other columns but sealed_at';
COMMENT ON COLUMN risk_seal_run.sealed_at IS 'When it was sealed; not part of the head';

CREATE TABLE risk_seal (
    run bigint NOT NULL,
    trader_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    day date NOT NULL,
    rows bigint NOT NULL,
    merged bigint NOT NULL,
    covered int8multirange NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT risk_seal_pkey PRIMARY KEY (run, trader_id, epoch, day)
);
COMMENT ON TABLE risk_seal IS
    'The leaves of the seals, append-only: what a run has of a trader, an epoch and a UTC day of recorded_at';
COMMENT ON COLUMN risk_seal.run IS 'Number of the run';
COMMENT ON COLUMN risk_seal.trader_id IS 'Of the rows';
COMMENT ON COLUMN risk_seal.epoch IS 'Of the rows';
COMMENT ON COLUMN risk_seal.day IS 'UTC day of recorded_at of the rows';
COMMENT ON COLUMN risk_seal.rows IS 'How many rows of history it stands for';
COMMENT ON COLUMN risk_seal.merged IS 'Sum of their merged';
COMMENT ON COLUMN risk_seal.covered IS 'The seq numbers that they stand for, with the merged ones';
COMMENT ON COLUMN risk_seal.digest IS 'SHA-256 over the SHA-256 of each row, in the order of seq and recorded_at';
-- Finds the leaves that expire: days come nearly in the order of the runs.
CREATE INDEX risk_seal_day ON risk_seal USING brin (day) WITH (autosummarize = on);

CREATE TABLE risk_epoch_total (
    trader_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    rows bigint NOT NULL,
    merged bigint NOT NULL,
    covered int8multirange NOT NULL,
    expired bigint NOT NULL DEFAULT 0,
    CONSTRAINT risk_epoch_total_pkey PRIMARY KEY (trader_id, epoch)
);
COMMENT ON TABLE risk_epoch_total IS 'The sum of the leaves of each epoch of a trader, of all runs that are not undone';
COMMENT ON COLUMN risk_epoch_total.trader_id IS 'Of the leaves';
COMMENT ON COLUMN risk_epoch_total.epoch IS 'Of the leaves';
COMMENT ON COLUMN risk_epoch_total.rows IS 'Sum of their rows';
COMMENT ON COLUMN risk_epoch_total.merged IS 'Sum of their merged';
COMMENT ON COLUMN risk_epoch_total.covered IS 'Union of their covered';
COMMENT ON COLUMN risk_epoch_total.expired IS 'How many of the rows retention has removed';

CREATE TRIGGER risk_seal_run_append_only_row BEFORE UPDATE OR DELETE ON risk_seal_run
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_seal_run_append_only_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_seal_run
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_seal_append_only_row BEFORE UPDATE OR DELETE ON risk_seal
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_seal_append_only_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_seal
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();

-- The lock first, the mark in a later statement, which sees what was committed before the lock was given. Closing sets the
-- mark, commits, and then waits until each transaction is over that has the lock: one that took it later has seen the new
-- mark. So no writer waits. Above READ COMMITTED only a row's lock shows that the mark has changed. A writer
-- needs no privilege on the mark, and one who has none cannot take a lock that matters.
DO $do$
BEGIN
    EXECUTE format($sql$
        CREATE FUNCTION risk_refuse_closed() RETURNS trigger
            LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp
        AS $$
        DECLARE
            closed timestamptz;
        BEGIN
            LOCK TABLE %1$I.risk_seal_mark IN ROW SHARE MODE;
            IF current_setting('transaction_isolation') = 'read committed' THEN
                SELECT closed_until INTO STRICT closed FROM %1$I.risk_seal_mark;
            ELSE
                SELECT closed_until INTO STRICT closed FROM %1$I.risk_seal_mark FOR SHARE;
            END IF;
            IF now() < closed THEN
                RAISE EXCEPTION 'history is closed until %%, and this transaction began at %%', closed, now()
                    USING ERRCODE = 'serialization_failure', HINT = 'Try it again in a new transaction.';
            END IF;
            RETURN NULL;
        END
        $$
    $sql$, current_schema());
END
$do$;
COMMENT ON FUNCTION risk_refuse_closed() IS
    'Trigger: refuses rows of a transaction that began before what is closed for sealing';
CREATE TRIGGER risk_state_history_closed BEFORE INSERT ON risk_state_history
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_closed();

-- migrate:down

DROP TRIGGER risk_state_history_closed ON risk_state_history;
DROP FUNCTION risk_refuse_closed();
DROP TABLE risk_epoch_total;
DROP TABLE risk_seal;
DROP TABLE risk_seal_run;
DROP TABLE risk_seal_mark;
