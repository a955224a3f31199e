-- migrate:up

ALTER TABLE risk_deployment
    ADD COLUMN other_partitions smallint[] NOT NULL DEFAULT '{}',
    ADD COLUMN partitioning_version integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT risk_deployment_other_partitions_check
        CHECK (1 <= ALL (other_partitions) AND 256 >= ALL (other_partitions)),
    ADD CONSTRAINT risk_deployment_partitioning_version_check CHECK (partitioning_version >= 0);

COMMENT ON COLUMN risk_deployment.other_partitions IS
    'Former numbers of partitions, or the one that comes next: traders may have snapshots where these divide them';
COMMENT ON COLUMN risk_deployment.partitioning_version IS
    'Grows with each change of the two; the greater one counts, of Redis'' and this';

-- migrate:down

ALTER TABLE risk_deployment
    DROP COLUMN other_partitions,
    DROP COLUMN partitioning_version;
