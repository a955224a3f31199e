"""verify where history is not kept for ever."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner

from risk_producer.contract.keys import Keys
from risk_worker.cli import cli
from risk_worker.database import migrations

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def insert(url: str, trader: str, epoch: datetime, seqs: range, began: datetime, every: timedelta) -> None:
    """Rows of one epoch; seq 1 was recorded at `began`. The state is the last."""
    values = (
        "(trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,"
        " trading_paused, last_reset_time) VALUES (%s, %s, %s, %s, 0, 0, 0, 0, false, %s)"
    )
    rows = [(trader, int(epoch.timestamp() * 1000), seq, began + (seq - 1) * every, began) for seq in seqs]
    with psycopg.connect(url) as db, db.cursor() as cursor:
        cursor.executemany(f"INSERT INTO risk_state_history {values}", rows)
        state = f"INSERT INTO risk_state {values} ON CONFLICT (trader_id) DO UPDATE SET"
        excluded = "epoch = excluded.epoch, seq = excluded.seq, recorded_at = excluded.recorded_at"
        cursor.execute(
            f"{state} {excluded}".encode(),
            rows[-1],
        )


def delete(url: str, condition: str) -> None:
    """What a retention policy does, on a plain table."""
    with psycopg.connect(url) as db:
        db.execute("ALTER TABLE risk_state_history DISABLE TRIGGER USER")
        db.execute(f"DELETE FROM risk_state_history WHERE {condition}".encode())
        db.execute("ALTER TABLE risk_state_history ENABLE TRIGGER USER")


def verify(redis_url: str, url: str, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        cli,
        ["verify", "--json", *arguments],
        env={"REDIS_URL": redis_url, "POSTGRES_URL": url},
        catch_exceptions=False,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == (0 if said["reconciled"] else 1)
    return said


@pytest.fixture
def aged(redis_url: str, redis_client: redis.Redis, database_url: str) -> str:
    """a: 60 days, a row an hour. b: idle since day 5, so that nothing of it is left. c: began 5 days ago."""
    insert(database_url, "a", NOW - 60 * DAY, range(1, 1441), NOW - 60 * DAY, DAY / 24)
    insert(database_url, "b", NOW - 60 * DAY, range(1, 101), NOW - 60 * DAY, DAY / 24)
    insert(database_url, "c", NOW - 5 * DAY, range(1, 101), NOW - 5 * DAY, DAY / 24)
    for trader, days, count in (("a", 60, 1440), ("b", 60, 100), ("c", 5, 100)):
        epoch = int((NOW - days * DAY).timestamp() * 1000)
        redis_client.hset(Keys(0).admitted, f"{epoch}:{trader}", count)
    return database_url


BEFORE = f"recorded_at < '{NOW - 30 * DAY}'"


def test_what_is_older_than_the_horizon_is_not_lost(aged: str, redis_url: str) -> None:
    assert verify(redis_url, aged)["reconciled"]
    delete(aged, BEFORE)
    said = verify(redis_url, aged)
    assert (said["lost"], said["not_retained"], said["states_behind"]) == (820, 0, ["b"])
    for option in ("30d", (NOW - 30 * DAY).isoformat(), f"{NOW - 29 * DAY:%Y-%m-%d}"):
        said = verify(redis_url, aged, "--retained-since", option)
        assert (said["reconciled"], said["lost"], said["not_retained"]) == (True, 0, 820)
        assert said["accepted"] == said["stored"] + said["not_retained"]


@pytest.mark.parametrize(
    ("gone", "lost"),
    [
        ("trader_id = 'a' AND seq BETWEEN 1000 AND 1009", 10),  # within what is retained
        ("trader_id = 'a' AND seq = 1440", 1),  # the last
        ("trader_id = 'c' AND seq <= 20", 20),  # the first ones of an epoch that began after the horizon
        ("trader_id = 'c'", 100),  # all of it
    ],
)
def test_the_horizon_hides_no_loss_within_it(aged: str, redis_url: str, gone: str, lost: int) -> None:
    delete(aged, BEFORE)
    delete(aged, gone)
    said = verify(redis_url, aged, "--retained-since", "30d")
    assert (said["reconciled"], said["lost"], said["not_retained"]) == (False, lost, 820)


def test_a_state_that_is_behind_within_the_horizon_is_named(aged: str, redis_url: str) -> None:
    delete(aged, BEFORE)
    with psycopg.connect(aged) as db:
        db.execute("UPDATE risk_state SET seq = 7, recorded_at = '2026-01-01' WHERE trader_id = 'a'")
    assert verify(redis_url, aged, "--retained-since", "30d")["states_behind"] == ["a"]


@pytest.mark.parametrize("value", ["soon", "-1d", "2026-13-01", "90"])
def test_a_horizon_that_is_no_time_is_refused(redis_url: str, database_url: str, value: str) -> None:
    done = CliRunner().invoke(
        cli,
        ["verify", f"--retained-since={value}"],
        env={"REDIS_URL": redis_url, "POSTGRES_URL": database_url},
    )
    assert done.exit_code == 2
    assert "is not a time like '2026-01-31 14:05'" in done.stderr


def test_timescaledb_says_by_itself_what_is_retained(
    redis_url: str, redis_client: redis.Redis, timescale_url: str
) -> None:
    migrations.up(timescale_url)
    insert(timescale_url, "a", NOW - 60 * DAY, range(1, 1441), NOW - 60 * DAY, DAY / 24)
    insert(timescale_url, "b", NOW - 60 * DAY, range(1, 101), NOW - 60 * DAY, DAY / 24)
    for trader, count in (("a", 1440), ("b", 100)):
        redis_client.hset(Keys(0).admitted, f"{int((NOW - 60 * DAY).timestamp() * 1000)}:{trader}", count)
    said = verify(redis_url, timescale_url)
    assert (said["reconciled"], said["not_retained"]) == (True, 0)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute("SELECT drop_chunks('risk_state_history', now() - interval '30 days')")
    said = verify(redis_url, timescale_url)
    assert (said["reconciled"], said["lost"]) == (True, 0)
    assert said["not_retained"] > 400
    assert said["accepted"] == said["stored"] + said["not_retained"]
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute("SELECT add_retention_policy('risk_state_history', interval '30 days')")
        chunks = db.execute(
            "SELECT chunk_schema || '.' || chunk_name FROM timescaledb_information.chunks"
            " WHERE hypertable_name = 'risk_state_history' ORDER BY range_start"
        ).fetchall()
        db.execute(f"DROP TABLE {chunks[1][0]}".encode())  # a real loss, in the midst
    said = verify(redis_url, timescale_url)
    assert (said["reconciled"], said["lost"]) == (False, 168)
    [finding] = said["findings"]
    assert "TimescaleDB's retention policy (job " in finding
