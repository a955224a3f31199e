-- migrate:up

CREATE TABLE risk_deployment (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    partitions smallint,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT risk_deployment_pkey PRIMARY KEY (id),
    CONSTRAINT risk_deployment_partitions_check CHECK (partitions BETWEEN 1 AND 256)
);

COMMENT ON TABLE risk_deployment IS 'What this database is in one row: which deployment''s, and how it is divided';
COMMENT ON COLUMN risk_deployment.id IS
    'The identity of this database; workers write it beside the stream, so that no other database is filled from it';
COMMENT ON COLUMN risk_deployment.partitions IS
    'How many partitions traders and workers have agreed on; NULL: nothing is agreed on yet';
COMMENT ON COLUMN risk_deployment.created_at IS 'When the row was made, by the database''s clock';

INSERT INTO risk_deployment DEFAULT VALUES;

-- Exactly one row: the index refuses a second one, the trigger that the first goes.
CREATE UNIQUE INDEX risk_deployment_one_row ON risk_deployment ((true));

CREATE FUNCTION risk_refuse_removal() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% has exactly one row: % is refused', tg_table_name, tg_op
        USING HINT = 'riskstream rebind --new-identity gives this database another identity.';
END
$$;
COMMENT ON FUNCTION risk_refuse_removal() IS 'Trigger: refuses whatever would remove the row';

CREATE TRIGGER risk_deployment_keep_row
    BEFORE DELETE OR TRUNCATE ON risk_deployment
    FOR EACH STATEMENT EXECUTE FUNCTION risk_refuse_removal();

-- The identity is no secret, and every role that reads states has to compare it.
GRANT SELECT ON risk_deployment TO PUBLIC;

-- migrate:down

DROP TABLE risk_deployment;
DROP FUNCTION risk_refuse_removal();
