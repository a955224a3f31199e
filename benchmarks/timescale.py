"""A server with TimescaleDB, which no package brings along: TEST_TIMESCALE_URL names one on this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psutil  # type: ignore[import-untyped]
import psycopg
from psycopg import sql

from benchmarks.rows import TRADERS
from benchmarks.servers import MIGRATED
from risk_producer.settings import Settings
from risk_worker.database import migrations
from risk_worker.timescale.enable import enable

VARIABLE: Final = "TEST_TIMESCALE_URL"
PLAIN: Final = "plain"
HYPERTABLE: Final = "hypertable"
COLUMNSTORE: Final = "columnstore"
"""As `riskstream timescale enable` makes it: columnstore, its policy, continuous aggregates."""
COMPRESSED: Final = "compressed"
"""The same, and it has compressed chunks."""
COMPRESSED_ROWS: Final = 500_000
COMPRESSED_FROM, COMPRESSED_SPAN = timedelta(days=30), timedelta(days=15)
"""The age of the first of these rows, and how long they go on."""
_FILL: Final = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time
    )
    SELECT 'trader-' || lpad((n %% %(traders)s)::text, 3, '0'), at, 1, n / %(traders)s + 1, 'trace-' || n,
        'tick', n * 0.25, 1.25, 100000.0 + n, 250000.0, false, NULL, date_trunc('day', at, 'UTC')
    FROM (
        SELECT n, now() - %(age)s::interval + %(span)s::interval * n / %(rows)s AS at
        FROM generate_series(0, %(rows)s - 1) AS n
    ) AS each
"""


def add_url(parser: argparse.ArgumentParser) -> None:
    """The option for it."""
    parser.add_argument("--url", help=f"a server with TimescaleDB, on this machine (default: {VARIABLE})")


def required_url(parser: argparse.ArgumentParser, given: str | None) -> str:
    """What was given, or the environment has. Ends the program where there is none, and says so."""
    url = given or os.environ.get(VARIABLE)
    if not url:
        parser.error(
            f"nothing is measured: no package brings TimescaleDB along, and neither --url nor {VARIABLE} "
            "names a server that has it"
        )
    return url


@contextmanager
def database(url: str, name: str) -> Iterator[str]:
    """A database of that name for the moment."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        db.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


class Timescale:
    """Databases on such a server: history is one of the four kinds above."""

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url, autocommit=True) as db:
            self.postgres_pid: int = psutil.Process(db.info.backend_pid).ppid()
            [(postgres, extension)] = db.execute(
                "SELECT split_part(current_setting('server_version'), ' ', 1), default_version"
                " FROM pg_available_extensions WHERE name = 'timescaledb'"
            ).fetchall()
        self.version = f"{postgres}, TimescaleDB {extension}"

    @contextmanager
    def database(self, template: str = MIGRATED) -> Iterator[str]:
        """The URL of a fresh database of this kind, everything of it on disk, in which no policy runs."""
        with database(self._url, "benchmark_timescale") as url:
            if template == PLAIN:
                _migrate_without_the_extension(url)
            else:
                migrations.up(url)
            with psycopg.connect(url, autocommit=True) as db:
                if template in (COLUMNSTORE, COMPRESSED):
                    list(enable(url, Settings(postgres_url=url)))
                if template != PLAIN:
                    db.execute("SELECT _timescaledb_functions.stop_background_workers()")
                if template == COMPRESSED:
                    words = {"age": COMPRESSED_FROM, "span": COMPRESSED_SPAN, "rows": COMPRESSED_ROWS}
                    db.execute(_FILL, {**words, "traders": TRADERS})
                    db.execute("SELECT compress_chunk(show_chunks('risk_state_history'))")
                    db.execute("VACUUM (ANALYZE) risk_state_history")
                db.execute("CHECKPOINT")
            yield url


def _migrate_without_the_extension(url: str) -> None:
    """As a role that may not create it: history stays a plain table."""
    role = sql.Identifier("benchmark_plain")
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
        db.execute(
            sql.SQL("CREATE ROLE {0} LOGIN PASSWORD 'x'; GRANT USAGE, CREATE ON SCHEMA public TO {0}").format(
                role
            )
        )
        try:
            parts = urlsplit(url)
            host = parts.netloc.rpartition("@")[2]
            migrations.up(urlunsplit(parts._replace(netloc=f"benchmark_plain:x@{host}")))
        finally:
            db.execute(sql.SQL("REASSIGN OWNED BY {0} TO CURRENT_USER; DROP OWNED BY {0}").format(role))
            db.execute(sql.SQL("DROP ROLE {}").format(role))
