"""The views of the questions come and go with their migration, and are all that a reader needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from risk_worker.database import migrations
from tests.integration.query.conftest import COMPRESS, STATES
from tests.support.database import migrate_down
from tests.support.history import fill
from tests.support.servers import Databases

MIGRATION = "20261126000007_views_of_questions.sql"
VIEWS = ("risk_pauses", "risk_silence", "risk_daily", "risk_hourly")
BEGIN = datetime(2026, 11, 16, tzinfo=UTC)


@pytest.fixture(params=["plain", "hypertable", "compressed", "apache"])
def url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    variable = {"apache": "TEST_TIMESCALE_APACHE_URL"}.get(request.param, "TEST_TIMESCALE_URL")
    if request.param != "plain":
        server = os.environ.get(variable)
        if server is None:
            pytest.skip(f"{variable} is not set: no package brings TimescaleDB along")
        databases = Databases(server)
    made = databases.create()
    migrations.up(made)
    fill(made, ["a", "b"], BEGIN, 20, a_day=50)
    with psycopg.connect(made, autocommit=True) as db:
        db.execute(STATES.encode())
        if request.param == "compressed":
            db.execute(COMPRESS.encode())
    yield made
    databases.drop(made)


def shown(url: str) -> dict[str, Any]:
    """What is in each view, but for what grows with time."""
    with psycopg.connect(url) as db:
        return {
            name: sorted(
                str({**row, "lasted_s": None, "silent_s": None})
                for (row,) in db.execute(f"SELECT to_jsonb(each) FROM {name} AS each".encode())
            )
            for name in VIEWS
        }


def test_down_and_up_again(url: str) -> None:
    before = shown(url)
    # Every third snapshot is paused, and not its neighbours.
    assert [len(before[name]) for name in VIEWS] == [2 * 333, 2, 40, 2 * 480]
    migrate_down(url, MIGRATION)
    with psycopg.connect(url) as db:
        assert db.execute("SELECT to_regclass('risk_pauses'), to_regclass('risk_silence')").fetchall() == [
            (None, None)
        ]
        assert db.execute("SELECT count(*) FROM risk_state_history").fetchall() == [(2_000,)]
    migrations.up(url)
    assert shown(url) == before


def test_a_reader_of_the_views_needs_no_other_table(database_url: str) -> None:
    fill(database_url, ["a"], BEGIN, 2)
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(STATES.encode())
        role = f"panels_{db.info.dbname}"
        db.execute(f"CREATE ROLE {role}; GRANT SELECT ON {', '.join(VIEWS)} TO {role}".encode())
        try:
            db.execute(f"SET ROLE {role}".encode())
            for name in VIEWS:
                assert db.execute(f"SELECT FROM {name}".encode()).rowcount > 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute("SELECT FROM risk_state_history")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute("DELETE FROM risk_silence")
        finally:
            db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


ODD = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time, reason
    )
    SELECT trader, %(at)s::timestamptz + second * interval '1 s', epoch, seq, 0, 0, 0, 0, paused, now(),
        reason
    FROM (VALUES
        ('always', 0, 1, 1, true, 'first'), ('always', 1, 1, 2, true, ''),
        ('tie', 0, 1, 1, false, ''), ('tie', 0, 1, 2, true, 'by seq'), ('tie', 0, 2, 1, true, 'no'),
        ('tie', 0, 2, 2, false, ''), ('tie', 0, 3, 1, true, 'by epoch'), ('tie', 9, 1, 3, false, ''),
        ('never', 0, 1, 1, false, 'no'),
        ('restart', 0, 1, 1, true, 'before'), ('restart', 5, 2, 1, true, 'no'),
        ('restart', 6, 2, 2, false, ''),
        ('restart', 7, 1, 2, true, 'again')
    ) AS row (trader, second, epoch, seq, paused, reason)
"""


def test_pauses_of_one_moment_and_across_epochs(database_url: str) -> None:
    def at(second: int | None) -> datetime | None:
        return None if second is None else BEGIN + timedelta(seconds=second)

    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("SET timezone = 'UTC'")
        db.execute(ODD, {"at": BEGIN})
        db.execute(STATES.encode())
        rows = db.execute(
            "SELECT trader_id, since, until, reason FROM risk_pauses ORDER BY trader_id, since, epoch, seq"
        ).fetchall()
    assert rows == [
        (trader, at(since), at(until), reason)
        for trader, since, until, reason in (
            ("always", 0, None, "first"),
            ("restart", 0, 6, "before"),
            ("restart", 7, None, "again"),
            ("tie", 0, 0, "by seq"),
            ("tie", 0, 9, "by epoch"),
        )
    ]
