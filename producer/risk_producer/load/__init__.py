"""load(): the newest of memory, spool, Redis and Postgres."""
