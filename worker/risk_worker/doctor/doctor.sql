-- What `riskstream doctor` asks of Postgres.

-- name: now
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: is_standby
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean;

-- name: probe
-- In a transaction that is taken back. A worker's role may add a dead letter, and read none: so nothing is returned.
INSERT INTO risk_dead_letter (stream, entry_id, reason, payload)
VALUES ('risk:doctor', %(entry_id)s, 'a probe of riskstream doctor', '\x00');
