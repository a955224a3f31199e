"""Yardsticks of draining: the same rows, made beforehand, into the same table, with no queue at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import perf_counter

import psycopg

from benchmarks import inserts
from benchmarks.rows import COLUMNS
from benchmarks.servers import Servers


def copy_rate(servers: Servers, text: bytes) -> float:
    """COPY of text in one transaction. Rows a second."""
    with servers.database() as url, psycopg.connect(url) as db:
        began = perf_counter()
        with db.cursor() as cursor:
            with cursor.copy(f"COPY risk_state_history ({COLUMNS}) FROM STDIN".encode()) as copy:
                copy.write(text)
            db.commit()
            return cursor.rowcount / (perf_counter() - began)


def executemany_rate(servers: Servers, payloads: Sequence[bytes], batch: int) -> float:
    """psycopg's executemany(), `batch` rows a transaction, and the state of each trader. Rows a second."""
    rows = [json.loads(payload) for payload in payloads]
    with servers.database() as url, psycopg.connect(url, autocommit=True) as db:
        began = perf_counter()
        for first in range(0, len(rows), batch):
            inserts.store(db, rows[first : first + batch])
        return len(rows) / (perf_counter() - began)
