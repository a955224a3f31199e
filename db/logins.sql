-- What docker-compose.yml logs in as, for psql after roles.sql, once. The passwords come from files that the environment names.

-- The server's log gets no statement with a password, whatever it logs otherwise, nor one that fails. Only a superuser may say so.
DO $$
BEGIN
    PERFORM set_config('log_statement', 'none', false), set_config('log_min_error_statement', 'panic', false),
        set_config('log_min_duration_statement', '-1', false)
    WHERE current_setting('is_superuser') = 'on';
END
$$;

\set owner_password `cat "$OWNER_PASSWORD_FILE"`
\set worker_password `cat "$WORKER_PASSWORD_FILE"`
\set reader_password `cat "$READER_PASSWORD_FILE"`
\set operator_password `cat "$OPERATOR_PASSWORD_FILE"`

CREATE ROLE risk_migrate LOGIN PASSWORD :'owner_password' IN ROLE risk_owner;
ALTER ROLE risk_migrate SET role = risk_owner; -- what it makes belongs to the owner
CREATE ROLE risk_worker LOGIN PASSWORD :'worker_password' IN ROLE risk_writer;
CREATE ROLE risk_monitor LOGIN PASSWORD :'reader_password' IN ROLE risk_reader; -- the exporter, and Grafana
ALTER ROLE risk_monitor SET default_transaction_read_only = on;
ALTER ROLE risk_monitor SET statement_timeout = '30s';
CREATE ROLE risk_console LOGIN PASSWORD :'operator_password' IN ROLE risk_operator; -- commands by hand
