-- What there is of TimescaleDB.

-- name: look
-- (version where it was created, is it on this server, is its library loaded, licence; all without its tables).
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),
       EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers'),
       coalesce(current_setting('timescaledb.license', true), '');

-- name: see_its_functions
-- The extension may have been created in any schema; for this transaction it is the last of the search path.
SELECT set_config(
    'search_path', concat_ws(', ', NULLIF(current_setting('search_path'), ''), quote_ident(nspname)), true
)
FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
WHERE extname = 'timescaledb';

-- name: is_hypertable
-- requires: timescaledb
SELECT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE (hypertable_schema, hypertable_name) = (
        SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass('risk_state_history')
    )
);

-- name: retention_policies
-- requires: timescaledb
SELECT job_id, coalesce(config->>'drop_after', config->>'drop_created_before')
FROM timescaledb_information.jobs
WHERE proc_name = 'policy_retention'
  AND (hypertable_schema, hypertable_name) = (
      SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
      WHERE pg_class.oid = to_regclass('risk_state_history')
  );
