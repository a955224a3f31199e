"""History with rows of the last hours, on a plain table and on a hypertable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from risk_devkit.embedded import EmbeddedPostgres
from risk_worker.database import migrations
from risk_worker.seal.chain import SQL
from risk_worker.seal.sealer import Sealer
from tests.support.servers import with_name

HOUR = timedelta(hours=1)
# Three hours have rows; the runs after them have none.
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 5 * HOUR
FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, merged, stored_at
    )
    SELECT trader, stored_at - interval '20 h' * (n %% 2) - %(late_s)s * interval '1 s',
        7, 2 * n, 'trace-' || n, 'größer', n / 3.0, 0,
        -1.5, n, n %% 2 = 0, CASE WHEN n %% 2 = 0 THEN timestamptz 'infinity' END, '2026-01-01Z', n %% 2,
        stored_at
    FROM (
        SELECT n, trader, %(begin)s::timestamptz + n * interval '5 min' AS stored_at
        FROM generate_series(1, 35) AS n, unnest(%(traders)s::text[]) AS trader
    ) AS made
"""


@pytest.fixture(params=["plain", "hypertable"])
def url(request: pytest.FixtureRequest) -> str:
    """A database with 105 rows of three traders, stored in three hours."""
    return database_with_rows(request, request.param)


def database_with_rows(request: pytest.FixtureRequest, kind: str) -> str:
    """What url() gives."""
    if kind == "plain":
        made: str = request.getfixturevalue("database_url")
    else:
        made = request.getfixturevalue("timescale_url")
        migrations.up(made)
    fill(made, ["a", "b", "é"])
    return made


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    """As a superuser, with the triggers disabled."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        yield db


def fill(url: str, traders: list[str], begin: datetime = BEGIN, late_s: int = 0) -> None:
    """35 rows of each, one in five minutes; every second stands for one more, and is a day older."""
    with psycopg.connect(url) as db:
        db.execute(FILL, {"begin": begin, "traders": traders, "late_s": late_s})


def seal(url: str, window: timedelta = HOUR, now: datetime | None = None) -> int:
    """Seal what is over. Returns how many runs that made."""
    clock = {} if now is None else {"clock": lambda: now}
    with Sealer(url, window, **clock) as sealer:
        return len(list(sealer.seal()))


@contextmanager
def clocks_ahead(hours: int) -> Iterator[datetime]:
    """The database's clock, as far as sealing asks it, is so many hours ahead; yields what it shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SQL, "clock", f"SELECT clock_timestamp() + interval '{hours} h'")
        yield datetime.now(UTC) + hours * HOUR


@pytest.fixture
def postgres_url_sql_ascii(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database that holds any bytes."""
    name = f"ascii_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0".encode())
        made = with_name(postgres_server.url, name)
        migrations.up(made)
        yield made
        db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
