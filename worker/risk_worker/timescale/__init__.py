"""How history ages: compressed, summed up, removed; with TimescaleDB, and as a plain table."""
