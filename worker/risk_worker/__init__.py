"""riskstream's worker: drains the stream into Postgres."""
