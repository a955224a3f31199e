-- What a new connection is asked.

-- name: look
-- The pid that a pooler tells its client is not that of the server's process.
SELECT pg_backend_pid(),
       EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
           AND NOT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers'),
       current_setting('synchronous_commit') = 'off',
       current_setting('client_connection_check_interval', true) IS NOT NULL AND version() ~ 'linux';
