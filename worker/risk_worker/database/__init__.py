"""Postgres: connections, errors, migrations, and the store."""
