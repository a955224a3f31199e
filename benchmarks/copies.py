"""Yardstick of draining: COPY of the same rows as text, in one transaction, into the same table."""

from __future__ import annotations

from time import perf_counter

import psycopg

from benchmarks.rows import COLUMNS
from benchmarks.servers import Servers


def copy_rate(servers: Servers, text: bytes) -> float:
    """Rows a second."""
    with servers.database() as url, psycopg.connect(url) as db:
        began = perf_counter()
        with db.cursor() as cursor:
            with cursor.copy(f"COPY risk_state_history ({COLUMNS}) FROM STDIN".encode()) as copy:
                copy.write(text)
            db.commit()
            return cursor.rowcount / (perf_counter() - began)
