"""What tests ask of Postgres, and put there."""

from __future__ import annotations

from typing import Any

import psycopg

from risk_producer.contract.keys import Keys
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import StreamEntry, decode_entries

STREAM = Keys(0).snapshots


def rows(db: psycopg.Connection, query: str) -> list[Any]:
    """All rows of a query, as tuples."""
    return db.execute(query.encode()).fetchall()


def store_entries(url: str, *entries: StreamEntry) -> None:
    """Store stream entries of partition 0 as a drain does, in one batch."""
    with PostgresStore(url) as opened:
        opened.save(decode_entries(STREAM, entries))
