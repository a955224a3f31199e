"""risk_hourly and risk_daily: the same on a plain table, on a hypertable, and as continuous aggregates."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from risk_worker.database import migrations
from risk_worker.timescale.policies import SQL
from tests.integration.timescale.conftest import Run
from tests.support.database import take_back
from tests.support.history import DAY, TODAY, fill

MIGRATION: Final = Path(__file__).parents[3] / "db/migrations/20261126000005_aggregates_and_expiry.sql"
BUCKETS: Final = {"risk_hourly": timedelta(hours=1), "risk_daily": DAY}
COLUMNS: Final = [
    "trader_id", "bucket", "open", "high", "low", "close", "worst_drawdown_pct", "daily_pnl", "paused_share",
    "snapshots",
]  # fmt: skip
ODD: Final = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time
    ) VALUES
        ('tie', %(at)s, 9007199254740990, 2, 1, 0, 12, 0, true, now()),
        ('tie', %(at)s, 9007199254740990, 1, 2, 0, 11, 0, true, now()),
        ('tie', %(at)s, 9007199254740991, 1, 3, 0, 13, 0, false, now()),
        ('tie', %(at)s, 1, 9007199254740992, 4, 0, 10, 0, false, now()),
        ('ends', %(at)s, 1, 1, -1, 5, 1, 0, false, now()),
        ('ends', %(at)s + interval '59 min 59.999999 s', 1, 2, -2, -5, 2, 0, true, now()),
        ('ends', %(at)s + interval '1 h', 1, 3, -3, 1.7976931348623157e308, 3, 0, true, now()),
        ('ends', %(at)s + interval '23 h 59 min 59.999998 s', 1, 4, 5e-324, 0, 4, 0, true, now()),
        ('ends', %(at)s + interval '23 h 59 min 59.999999 s', 1, 5, '-0', 0, 5, 0, true, now()),
        ('ends', '2000-01-01Z', 1, 6, 1, 0, 6, 0, true, now()),
        ('ends', '2199-12-31 23:59:59.999998Z', 1, 7, 1, 0, 7, 0, true, now()),
        ('ends', '2199-12-31 23:59:59.999999Z', 1, 8, 2, 0, 8, 0, true, now())
"""


def expected(db: psycopg.Connection, bucket: timedelta) -> list[Any]:
    """The same, from the rows."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    rows = db.execute(
        "SELECT trader_id, recorded_at, epoch, seq, current_equity, drawdown_pct, daily_pnl, trading_paused"
        " FROM risk_state_history ORDER BY recorded_at, epoch, seq"
    )
    zero = datetime(2000, 1, 1, tzinfo=UTC)
    for trader, at, _, _, *values in rows:
        groups[trader, at - (at - zero) % bucket].append(values)
    return [
        (
            *(*key, group[0][0], max(v[0] for v in group), min(v[0] for v in group), group[-1][0]),
            *(max(v[1] for v in group), group[-1][2], sum(v[3] for v in group) / len(group), len(group)),
        )
        for key, group in sorted(groups.items())
    ]


def shown(db: psycopg.Connection, name: str) -> list[Any]:
    return db.execute(f"SELECT * FROM {name} ORDER BY trader_id, bucket".encode()).fetchall()


def put_rows(url: str) -> None:
    fill(url, ["a", "b"], TODAY - 10 * DAY, 10, a_day=37)
    with psycopg.connect(url) as db:
        db.execute(ODD, {"at": TODAY - 3 * DAY})


@pytest.fixture(params=["plain", "hypertable", "continuous"])
def url(request: pytest.FixtureRequest) -> str:
    fixture = {"plain": "database_url", "hypertable": "hypertable_url", "continuous": "enabled_url"}
    made: str = request.getfixturevalue(fixture[request.param])
    put_rows(made)
    return made


@pytest.mark.parametrize("name", BUCKETS)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_they_are_what_the_rows_come_to(url: str, name: str, zone: str) -> None:
    with psycopg.connect(url) as db:
        db.execute(f"SET timezone = '{zone}'".encode())
        cursor = db.execute(f"SELECT * FROM {name}".encode())
        assert [column.name for column in cursor.description or ()] == COLUMNS
        assert shown(db, name) == expected(db, BUCKETS[name])


def refresh(db: psycopg.Connection) -> None:
    for name in BUCKETS:
        db.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, now() - interval '1 day')".encode())


def test_late_rows_come_in_with_the_next_refresh(enabled_url: str) -> None:
    put_rows(enabled_url)
    with psycopg.connect(enabled_url, autocommit=True) as db:
        for name, bucket in BUCKETS.items():
            assert shown(db, name) == expected(db, bucket)
        refresh(db)
        for name, bucket in BUCKETS.items():
            assert shown(db, name) == expected(db, bucket)
        fill(enabled_url, ["late"], TODAY - 9 * DAY, 2)
        assert [row for row in shown(db, "risk_daily") if row[0] == "late"] == []
        refresh(db)
        for name, bucket in BUCKETS.items():
            assert shown(db, name) == expected(db, bucket)


@pytest.mark.parametrize("name", BUCKETS)
def test_both_forms_say_the_same(name: str) -> None:
    """The view of the migration, and what the command makes of it."""
    view = re.search(rf"CREATE VIEW {name} AS\n(.*?);\n", MIGRATION.read_text(), re.S)
    assert view is not None
    continuous = SQL[f"make_{name.removeprefix('risk_')}_continuous"]

    def select(text: str) -> str:
        return re.sub(
            r"(?:date_bin\('(1 \w+)', recorded_at, '2000-01-01 00:00:00\+00'\)"
            r"|time_bucket\(interval '(1 \w+)', recorded_at\))",
            r"\1\2",
            text,
        )

    assert select(view[1]) in select(continuous)


@pytest.mark.parametrize("enabled", [False, True])
def test_down_and_up_again(hypertable_url: str, run: Run, enabled: bool) -> None:
    put_rows(hypertable_url)
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        rows = db.execute(
            "SELECT to_jsonb(h) FROM risk_state_history h ORDER BY trader_id, seq, epoch"
        ).fetchall()
        if enabled:
            assert run(hypertable_url, "timescale", "enable").exit_code == 0
            db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
            refresh(db)
        before = [shown(db, name) for name in BUCKETS]
        while MIGRATION.name not in take_back(hypertable_url):
            pass
        assert db.execute(
            "SELECT count(*) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        ).fetchall() == [(0,)]
        assert db.execute("SELECT to_regclass('risk_daily'), to_regclass('risk_hourly')").fetchall() == [
            (None, None)
        ]
        for _ in range(2):
            assert (
                db.execute(
                    "SELECT to_jsonb(h) FROM risk_state_history h ORDER BY trader_id, seq, epoch"
                ).fetchall()
                == rows
            )
            migrations.up(hypertable_url)
        assert [shown(db, name) for name in BUCKETS] == before
        assert run(hypertable_url, "timescale", "enable").exit_code == 0
        assert [shown(db, name) for name in BUCKETS] == before


def test_the_query_by_time_that_the_page_has(database_url: str) -> None:
    """100 for the first hour of the day, then 200 until noon and, paused, 300 until midnight."""
    page = (Path(__file__).parents[3] / "docs" / "retention.md").read_text()
    [query] = re.findall(r"```sql\n(.*?)```", page, re.S)
    insert = (
        "INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct,"
        " current_equity, peak_equity, trading_paused, last_reset_time)"
        " VALUES (%s, %s, 1, %s, 0, 0, %s, 0, %s, now())"
    )
    start = TODAY - DAY
    hour = timedelta(hours=1)
    with psycopg.connect(database_url) as db:
        for trader, seq, at, equity, paused in (
            ("a", 1, start - 9 * DAY, 100, False),
            ("a", 2, start + hour, 200, False),
            ("a", 3, start + 12 * hour, 300, True),
            ("a", 4, start + 24 * hour, 400, False),
            ("b", 5, start + 2 * hour, 999, True),
        ):
            db.execute(insert, (trader, at, seq, equity, paused))
        words = {"trader": "'a'", "start": f"'{start}'", "finish": f"'{start + DAY}'"}
        text = re.sub(r":'(\w+)'", lambda found: words[found[1]], query)
        [(equity, paused)] = db.execute(text.encode()).fetchall()
    assert (equity, paused) == pytest.approx(((100 + 11 * 200 + 12 * 300) / 24, 0.5))
