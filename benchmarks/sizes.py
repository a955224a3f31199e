"""What snapshots and traders take of Redis' memory and of Postgres' disk, for docs/operations.md.

Bytes do not depend on what else the machine does.

    python -m benchmarks.sizes                          an embedded Valkey and Postgres: a minute
    python -m benchmarks.sizes --url postgresql://…     compressed rows too, on that server's TimescaleDB
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from benchmarks.rows import snapshot
from benchmarks.servers import Servers
from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_worker.database import migrations

TRADERS: Final = 200
EVERY_S: Final = 60
_KEPT: Final = ("latest", "epochs", "floors", "admitted", "attempts", "failures", "latency_ms")
"""The hashes that have a field for each trader."""
_HISTORY: Final = """
    SELECT pg_table_size('risk_state_history'), pg_indexes_size('risk_state_history'),
           pg_total_relation_size('risk_state'), count(*)
    FROM risk_state_history
"""
_COMPRESS: Final = """
    ALTER TABLE risk_state_history SET (
        timescaledb.compress, timescaledb.compress_segmentby = 'trader_id',
        timescaledb.compress_orderby = 'recorded_at DESC, epoch DESC, seq DESC'
    );
    SELECT compress_chunk(show_chunks('risk_state_history'));
"""


def measure(rows: int, traders: int, timescale_url: str | None = None) -> dict[str, float]:
    """What -> bytes. rows: snapshots in history; traders: of whom each sends once, for what a trader takes.

    timescale_url: of a server with TimescaleDB, for compressed rows.
    """
    with Servers() as servers:
        _send(servers.valkey.url, rows, TRADERS)
        found = {"a snapshot in the stream": servers.redis.memory_usage(Keys(0).snapshots, samples=0) / rows}
        with servers.database() as url:
            _store(servers.valkey.url, url)
            with psycopg.connect(url, autocommit=True) as db:
                db.execute("VACUUM (ANALYZE) risk_state_history")
                heap, index, _, stored = _one(db, _HISTORY)
                assert stored == rows
                found["a row of history"] = heap / rows
                found["its part of the indexes"] = index / rows
        servers.empty()
        before = servers.redis.info("memory")["used_memory"]
        _send(servers.valkey.url, traders, traders)
        with servers.database() as url:
            _store(servers.valkey.url, url)
            after = servers.redis.info("memory")["used_memory"]
            kept = sum(servers.redis.memory_usage(getattr(Keys(0), each), samples=0) or 0 for each in _KEPT)
            assert kept <= after - before + 1_000_000
            found["a trader in Redis"] = kept / traders
            with psycopg.connect(url, autocommit=True) as db:
                db.execute("VACUUM (FULL, ANALYZE) risk_state")
                found["a trader's row of risk_state"] = _one(db, _HISTORY)[2] / traders
        servers.empty()
        if timescale_url is not None:
            with _database(timescale_url) as url:
                migrations.up(url)
                _send(servers.valkey.url, rows, TRADERS)
                _store(servers.valkey.url, url)
                with psycopg.connect(url, autocommit=True) as db:
                    size = "SELECT hypertable_size('risk_state_history')"
                    found["a row in a chunk, indexes included"] = _one(db, size)[0] / rows
                    db.execute(_COMPRESS.encode())
                    found["the same, compressed"] = _one(db, size)[0] / rows
    return found


def _send(redis_url: str, rows: int, traders: int) -> None:
    """So many snapshots, whose times are EVERY_S apart for each trader; their equity goes up and down."""
    began = datetime.now(UTC) - timedelta(seconds=EVERY_S * rows / traders)
    equity = [100_000.0] * traders
    with RiskProducer(redis_url, buffer_size=8192) as producer:
        for number in range(rows):
            trader = number % traders
            equity[trader] += (number * 2_654_435_761 % 20_001 - 10_000) / 100
            fields: dict[str, Any] = {
                "recorded_at": began + timedelta(seconds=EVERY_S * (number // traders), microseconds=trader),
                "current_equity": round(equity[trader], 2),
                "daily_pnl": round(equity[trader] - 100_000, 2),
                "drawdown_pct": round(max(0.0, 2_500 - equity[trader] / 40) / 1_000, 4),
            }
            plain: dict[str, Any] = {
                name: getattr(snapshot(number, traders), name)
                for name in ("trader_id", "peak_equity", "trace_id", "reason")
            }
            assert producer.save(type(snapshot(0))(**plain, **fields))
        assert producer.flush(120)


def _store(redis_url: str, database_url: str) -> None:
    environ = {**os.environ, "REDIS_URL": redis_url, "POSTGRES_URL": database_url, "RISK_SEAL_EVERY": "off"}
    command = [sys.executable, "-m", "risk_worker", "worker", "--burst"]
    subprocess.run(command, env=environ, check=True, stderr=subprocess.DEVNULL, timeout=600)


@contextmanager
def _database(server_url: str) -> Iterator[str]:
    """A database of one's own on a server."""
    name = f"sizes_{os.getpid()}"
    with psycopg.connect(server_url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield server_url.rpartition("/")[0] + f"/{name}"
        finally:
            db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _one(db: psycopg.Connection, query: str) -> tuple[Any, ...]:
    [row] = db.execute(query.encode()).fetchall()
    return row


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--traders", type=int, default=10_000)
    parser.add_argument("--url", help="of a server with TimescaleDB")
    arguments = parser.parse_args()
    for what, size in measure(arguments.rows, arguments.traders, arguments.url).items():
        print(f"| {what} | {size:,.0f} |")


if __name__ == "__main__":
    main()
