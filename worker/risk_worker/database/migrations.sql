-- What is asked of the database before and after dbmate works on it.

-- name: is_read_only
-- (it is a standby, its sessions are read-only unless they say otherwise)
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean;

-- name: role
-- (role, schema that it works in, may it read which migrations are applied). NULL: it may use no schema of the search
-- path; there is no such table.
SELECT current_user::text, current_schema()::text,
       has_table_privilege(to_regclass(quote_ident(current_schema()) || '.schema_migrations'), 'SELECT');

-- name: tables
-- In the schema that is the first of the search path, where dbmate and the migrations put their tables.
SELECT bool_or(relname = 'schema_migrations'),
       array_agg(relname::text ORDER BY relname) FILTER (WHERE relname <> 'schema_migrations')
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND relname IN ('schema_migrations', 'risk_state', 'risk_state_history', 'risk_dead_letter', 'risk_deployment');

-- name: count_rows
SELECT count(*) FROM {table};

-- name: applied
SELECT version::text FROM schema_migrations;
