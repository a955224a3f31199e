"""The days of a desk over both changes of the clocks of a year, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_worker.cli import cli
from risk_worker.times import ends_of, start_of, zone_of
from tests.integration.query.conftest import STATES
from tests.support.servers import Databases

HALF_HOUR = timedelta(minutes=30)
BEGIN = datetime(2026, 3, 20, tzinfo=UTC)
ROWS = 48 * 240
FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time
    )
    SELECT 'a', %(begin)s::timestamptz + n * interval '30 min', 1, n + 1, n, n * 37 %% 1001, n, n, false,
        now()
    FROM generate_series(0, %(rows)s - 1) AS n
"""
DESKS = [
    ("Europe/Berlin", "24:00", {date(2026, 3, 29): 23, date(2026, 10, 25): 25}),
    ("Europe/Berlin", "17:00", {date(2026, 3, 29): 23, date(2026, 10, 25): 25}),
    ("Europe/Berlin", "03:00", {date(2026, 3, 29): 23, date(2026, 10, 25): 25}),
    # 02:30 is shown never, and twice: the day ends when the clocks jump over it, and when they show it first.
    ("Europe/Berlin", "02:30", {date(2026, 3, 29): 23.5, date(2026, 3, 30): 23.5, date(2026, 10, 26): 25}),
    ("America/New_York", "17:00", {date(2026, 11, 1): 25}),
]


@pytest.fixture(scope="module")
def url(databases: Databases, migrated_template: str) -> Iterator[str]:
    made = databases.create(migrated_template)
    with psycopg.connect(made, autocommit=True) as db:
        db.execute(FILL, {"begin": BEGIN, "rows": ROWS})
        db.execute(STATES.encode())
    yield made
    databases.drop(made)


@pytest.mark.parametrize(("zone", "ends", "changed"), DESKS, ids=lambda value: str(value)[:14])
def test_both_changes(url: str, zone: str, ends: str, changed: dict[date, float]) -> None:
    environ = {"POSTGRES_URL": url, "RISK_TZ": zone, "RISK_DAY_ENDS": ends}

    def run(*arguments: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(cli, [*arguments, "--format", "json"], env=environ)
        assert done.exit_code == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def start(day: date) -> datetime:
        return start_of(day, zone_of(zone), ends_of(ends))

    def numbers(day: date) -> range:
        """Of the rows of a day."""
        first, last = (-((BEGIN - start(each)) // HALF_HOUR) for each in (day, day + timedelta(days=1)))
        return range(first, last)

    for change, hours in changed.items():
        days = [change + timedelta(days=n) for n in (-1, 0, 1)]
        assert len(numbers(change)) == hours * 2
        since = ["--since", str(days[0]), "--until", str(days[-1] + timedelta(days=1))]
        # One bucket a day, however long it is.
        curve = run("curve", "a", "--bucket", "1d", *since)
        assert [(datetime.fromisoformat(row["bucket"]), row["snapshots"]) for row in curve] == [
            (start(day), len(numbers(day))) for day in days
        ]
        assert [row["close_equity"] for row in curve] == [numbers(day)[-1] for day in days]
        # Each day is divided from its beginning, and the last part is what is left.
        parts = run("curve", "a", "--bucket", "6h", *since)
        assert [datetime.fromisoformat(row["bucket"]) for row in parts] == [
            start(day) + n * timedelta(hours=6)
            for day in days
            for n in range(5)
            if start(day) + n * timedelta(hours=6) < start(day + timedelta(days=1))
        ]
        for day in days:
            [worst] = run("drawdown", "--day", str(day))
            assert worst["drawdown_pct"] == max(n * 37 % 1001 for n in numbers(day))
        pnl = {row["day"]: row["daily_pnl"] for row in run("pnl", "--week", str(change))}
        assert len(pnl) == 7
        assert {str(day): numbers(day)[-1] for day in days if str(day) in pnl}.items() <= pnl.items()
