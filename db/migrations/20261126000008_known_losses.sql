-- migrate:up

CREATE TABLE risk_known_loss (
    number bigint GENERATED ALWAYS AS IDENTITY,
    trader_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    undoes bigint,
    reason text NOT NULL,
    recorded_by text NOT NULL,
    database_user text NOT NULL DEFAULT session_user,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT risk_known_loss_pkey PRIMARY KEY (number),
    CONSTRAINT risk_known_loss_seq_check CHECK (1 <= first_seq AND first_seq <= last_seq),
    CONSTRAINT risk_known_loss_reason_check CHECK (btrim(reason) <> ''),
    CONSTRAINT risk_known_loss_undoes_key UNIQUE (undoes),
    CONSTRAINT risk_known_loss_undoes_fkey FOREIGN KEY (undoes) REFERENCES risk_known_loss (number)
);
COMMENT ON TABLE risk_known_loss IS
    'Lost snapshots that an operator has accepted as lost, so that verify does not count them; append-only';
COMMENT ON COLUMN risk_known_loss.number IS 'Counts the entries';
COMMENT ON COLUMN risk_known_loss.trader_id IS 'Of the lost snapshots';
COMMENT ON COLUMN risk_known_loss.epoch IS 'Of the lost snapshots';
COMMENT ON COLUMN risk_known_loss.first_seq IS 'The first seq that is lost';
COMMENT ON COLUMN risk_known_loss.last_seq IS 'The last seq that is lost';
COMMENT ON COLUMN risk_known_loss.undoes IS
    'The number of the entry that does not hold any more from here on; NULL: this entry accepts a loss';
COMMENT ON COLUMN risk_known_loss.reason IS 'Why, in the operator''s words';
COMMENT ON COLUMN risk_known_loss.recorded_by IS 'Who ran the command: user@host';
COMMENT ON COLUMN risk_known_loss.database_user IS 'As which user of the database';
COMMENT ON COLUMN risk_known_loss.recorded_at IS 'When, by the database''s clock';

CREATE TRIGGER risk_known_loss_append_only_row BEFORE UPDATE OR DELETE ON risk_known_loss
    FOR EACH ROW EXECUTE FUNCTION risk_refuse_change();
CREATE TRIGGER risk_known_loss_append_only_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_known_loss
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_change();

-- migrate:down

DROP TABLE risk_known_loss;
