-- What Postgres knows of the number of partitions, so that a Redis that lost its data gets it back.

-- name: stored
SELECT partitioning_version, partitions, other_partitions FROM risk_deployment;

-- name: lock
SELECT partitioning_version, partitions, other_partitions FROM risk_deployment FOR UPDATE;

-- name: store
UPDATE risk_deployment SET partitioning_version = %(version)s, partitions = %(partitions)s,
    other_partitions = %(others)s::smallint[];
