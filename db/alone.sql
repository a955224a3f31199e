-- For docker-compose.yml alone, after logins.sql: the superuser that this runs as logs in through the socket of the container
-- from now on. On a server of your own it would lock out the administrator who runs it.
ALTER ROLE CURRENT_USER PASSWORD NULL;
