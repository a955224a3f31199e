-- The role by which Grafana reads: it may read the tables of the dashboards, and nothing else. May be run again, by the
-- owner of the tables or a superuser, after the migrations:
--
--   READER=PASSWORD psql -v ON_ERROR_STOP=1 -f ops/grafana/reader.sql "$POSTGRES_URL"
\getenv password READER
SELECT 'CREATE ROLE risk_reader' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'risk_reader') \gexec
ALTER ROLE risk_reader LOGIN PASSWORD :'password';
ALTER ROLE risk_reader SET default_transaction_read_only = on;
ALTER ROLE risk_reader SET statement_timeout = '30s';
GRANT SELECT ON risk_state, risk_state_history TO risk_reader;
