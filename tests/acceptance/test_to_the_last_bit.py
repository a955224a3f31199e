"""A year of hours and a day of seconds of 20 traders: pushed as CSV, stored by a worker, and asked back."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy
import pandas
import pytest
import redis
from click.testing import CliRunner

from risk_producer.contract.keys import Keys
from risk_worker.cli import cli
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

SEED = int(os.environ.get("RISK_TEST_SEED", "15"))
SECONDS = int(os.environ.get("RISK_TEST_SECONDS", "3600"))
"""Of the day; 86400 are all of it, 1.9 million rows in all, and some minutes."""
TRADERS = [f"trader-{n:02}" for n in range(20)]
YEAR, DAY = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)
TIMES = ["recorded_at", "last_reset_time"]
FIGURES = ["daily_pnl", "drawdown_pct", "current_equity", "peak_equity"]


def generated() -> pandas.DataFrame:
    """In the order of time. Figures of any magnitude, with all the bits that a double has."""
    chance = numpy.random.default_rng(SEED)
    hours = pandas.date_range(YEAR, periods=365 * 24, freq="h", unit="us")
    seconds = pandas.date_range(DAY, periods=SECONDS, freq="s", unit="us")
    times = hours.append(seconds)
    frame = pandas.DataFrame({"recorded_at": times.repeat(len(TRADERS)), "trader_id": TRADERS * len(times)})
    count = len(frame)
    for name in FIGURES:
        frame[name] = chance.standard_normal(count) * 10.0 ** chance.integers(-12, 15, count)
    frame["trading_paused"] = chance.random(count) < 0.1
    frame["last_reset_time"] = frame.recorded_at.dt.floor("D")
    return frame


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1_500)
def test_what_is_asked_back_is_what_was_pushed(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    frame = generated()
    texts = {name: {each: each.isoformat() for each in frame[name].unique()} for name in TIMES}
    frame.assign(**{name: frame[name].map(texts[name]) for name in TIMES}).to_csv(
        tmp_path / "in.csv", index=False
    )
    settings = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    command = [sys.executable, "-m", "risk_worker", "push", str(tmp_path / "in.csv")]
    keys = Keys(0)
    with (
        ChildProcess(tmp_path / "worker", settings) as worker,
        ChildProcess(tmp_path / "push", settings, command) as push,
    ):
        assert push.wait(900) == 0, push.log
        assert f"{len(frame):,} accepted, 0 bad in" in push.log
        wait_until(lambda: redis_client.xlen(keys.snapshots) == 0, 300, f"the stream to empty; {worker.log}")
        assert int(cast(Any, redis_client.hget(keys.counters, "stored"))) == len(frame)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments, env=settings)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("export", "--plain", "--out", str(tmp_path / "out.csv"))
    found = pandas.read_csv(tmp_path / "out.csv", converters=dict.fromkeys(FIGURES, float))
    expected = frame.sort_values(["trader_id", "recorded_at"], kind="stable", ignore_index=True)
    assert len(found) == len(expected)
    for name in ("trader_id", "trading_paused", *FIGURES):
        assert numpy.array_equal(found[name].to_numpy(), expected[name].to_numpy()), name
    for name in TIMES:
        times = pandas.to_datetime(found[name], utc=True, format="ISO8601")
        assert (times == expected[name]).all(), name

    days = expected.groupby(["trader_id", expected.recorded_at.dt.date])
    last, worst = days.daily_pnl.last(), days.drawdown_pct.max()
    for monday in ("2025-06-02", "2026-02-02"):
        week = [datetime.fromisoformat(monday).date() + timedelta(days=n) for n in range(7)]
        rows = json.loads(run("pnl", "--week", monday, "--format", "json"))
        assert {
            (row["trader_id"], datetime.fromisoformat(row["day"]).date()): row["daily_pnl"] for row in rows
        } == {key: value for key, value in last.items() if key[1] in week}
    for day in ("2025-06-05", "2026-02-02"):
        rows = json.loads(run("drawdown", "--day", day, "--format", "json"))
        of_day = worst.xs(datetime.fromisoformat(day).date(), level=1)
        assert {row["trader_id"]: row["drawdown_pct"] for row in rows} == of_day.to_dict()
    mine = expected[(expected.trader_id == "trader-07") & (expected.recorded_at >= DAY)]
    minutes = mine.groupby(mine.recorded_at.dt.floor("5min")).current_equity
    rows = json.loads(run("curve", "trader-07", "--since", "2026-02-02", "--format", "json"))
    names = ("open_equity", "high_equity", "low_equity", "close_equity")
    assert [[row[name] for name in names] for row in rows] == (
        minutes.agg(["first", "max", "min", "last"]).to_numpy().tolist()
    )
