"""`riskstream retain`: what is old and sealed goes, with an entry in the chain of seals, and nothing else."""

from __future__ import annotations

import logging
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from risk_producer.settings import Settings
from risk_worker.database.extension import look
from risk_worker.runtime.retention import Retention
from risk_worker.seal.chain import ChainBusy, lock
from risk_worker.seal.expiry import expire
from risk_worker.seal.sealer import ClocksDiffer, Sealer
from risk_worker.seal.verify import verify
from risk_worker.timescale.retention import HistoryDiffers, NothingSealed, Removed, due, retain
from tests.integration.timescale.conftest import Run
from tests.support.database import rows
from tests.support.history import DAY, TODAY, fill

KEEP = 14
BEGIN = TODAY - 33 * DAY
KINDS = {"plain": "database_url", "hypertable": "hypertable_url", "compressed": "enabled_url"}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """32 days of two traders, stored day by day, sealed as far as they can be."""
    made: str = request.getfixturevalue(KINDS[request.param])
    fill(made, ["a", "b"], BEGIN, 32)
    seal(made)
    if request.param == "compressed":
        with psycopg.connect(made, autocommit=True) as db:
            db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    return made


def seal(url: str, now: datetime | None = None) -> None:
    with Sealer(url, DAY, **({} if now is None else {"clock": lambda: now})) as sealer:
        list(sealer.seal())


def kept_from(url: str, days: int = KEEP) -> date:
    """The day before which everything goes: whole days, and whole chunks where there are some."""
    with psycopg.connect(url) as db:
        [(sealed_until,)] = rows(db, "SELECT max(until_at) FROM risk_seal_run")
        limit: datetime = (sealed_until - timedelta(days=days)).astimezone(UTC)
        if look(db).hypertable:
            bounds = rows(
                db,
                "SELECT unnest(ARRAY[range_start, range_end]) FROM timescaledb_information.chunks"
                " WHERE hypertable_name = 'risk_state_history'",
            )
            limit = max(bound.astimezone(UTC) for (bound,) in bounds if bound <= limit)
        return limit.date()


def history(url: str) -> Any:
    with psycopg.connect(url) as db:
        return rows(db, "SELECT trader_id, recorded_at, seq FROM risk_state_history ORDER BY 1, 2, 3")


def gone(url: str, removed: list[Removed]) -> int:
    assert verify(url, deep=True).intact
    return sum(each.rows for each in removed)


def test_what_is_old_goes_and_the_rest_stays(url: str) -> None:
    before = history(url)
    limit = datetime.combine(kept_from(url), time(), UTC)
    old = [row for row in before if row[1] < limit]
    assert old
    assert due(url, KEEP).rows == len(old)
    assert history(url) == before
    assert gone(url, list(retain(url, KEEP))) == len(old)
    assert history(url) == [row for row in before if row[1] >= limit]
    assert list(retain(url, KEEP)) == [], "there is nothing left to remove"
    assert due(url, KEEP).rows == 0
    with psycopg.connect(url) as db:
        assert rows(db, "SELECT sum(expired)::int FROM risk_epoch_total") == [(len(old),)]
        assert rows(db, "SELECT max(expired_until) FROM risk_seal_run WHERE kind = 'expired'") == [
            (limit.date(),)
        ]


def test_what_came_late_waits_for_its_seal(url: str) -> None:
    """Also of a trader whose clock is years behind: it keeps nothing else from going."""
    limit = datetime.combine(kept_from(url), time(), UTC)
    late = fill(url, ["late"], BEGIN + DAY, 2, stored_at=datetime.now(UTC))
    late += fill(url, ["late"], datetime(2001, 2, 3, tzinfo=UTC), 2, stored_at=datetime.now(UTC))
    before = history(url)
    removed = gone(url, list(retain(url, KEEP)))
    assert history(url) == [row for row in before if row[0] == "late" or row[1] >= limit]
    assert removed == len(before) - len(history(url))
    with psycopg.connect(url) as db:  # as if it had been sealed later
        db.execute("SET session_replication_role = replica")
        [(sealed_until,)] = rows(db, "SELECT max(until_at) FROM risk_seal_run")
        db.execute("UPDATE risk_state_history SET stored_at = %s WHERE trader_id = 'late'", (sealed_until,))
    with Sealer(url, timedelta(minutes=10)) as sealer:
        list(sealer.seal())
    assert gone(url, list(retain(url, KEEP))) == late
    assert history(url) == [row for row in before if row[1] >= limit and row[0] != "late"]


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM risk_state_history WHERE trader_id = 'a' AND seq = 3",
        "INSERT INTO risk_state_history SELECT (jsonb_populate_record(h, '{\"seq\": 9999}')).*"
        " FROM risk_state_history h WHERE trader_id = 'a' AND seq = 3",
    ],
)
def test_an_entry_covers_up_nothing(database_url: str, attack: str) -> None:
    fill(database_url, ["a"], BEGIN, 32)
    seal(database_url)
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute(attack.encode())
        before = history(database_url)
        with pytest.raises(HistoryDiffers, match=r"4 rows were sealed and [35] are there"):
            list(retain(database_url, KEEP))
        assert history(database_url) == before
        assert rows(db, "SELECT count(*) FROM risk_seal_run WHERE kind = 'expired'") == [(0,)]
        assert not verify(database_url, deep=True).intact


def test_nothing_is_removed_before_it_is_sealed(database_url: str, run: Run) -> None:
    fill(database_url, ["a"], BEGIN, 32)
    before = history(database_url)
    for arguments in (["retain"], ["retain", "--dry-run"]):
        done = run(database_url, *arguments, RISK_RETAIN_FOR="14d")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "nothing is sealed yet" in done.stderr
        done = run(database_url, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "RISK_RETAIN_FOR is forever" in done.stderr
    with pytest.raises(NothingSealed):
        list(retain(database_url, KEEP))
    assert history(database_url) == before


@pytest.mark.parametrize("apart", [timedelta(minutes=2), timedelta(days=4000)])
def test_clocks_that_differ_remove_nothing(database_url: str, apart: timedelta) -> None:
    fill(database_url, ["a"], BEGIN, 32)
    seal(database_url)
    for sign in (1, -1):
        with pytest.raises(ClocksDiffer, match="nothing is removed"):
            list(retain(database_url, KEEP, clock=lambda sign=sign: datetime.now(UTC) + sign * apart))  # type: ignore[misc]


def test_history_stays_append_only(url: str) -> None:
    removed = list(retain(url, KEEP))
    with psycopg.connect(url, autocommit=True) as db:
        for statement in (
            "DELETE FROM risk_state_history",
            "DELETE FROM risk_state_history WHERE false",
            "UPDATE risk_state_history SET seq = 7",
            "TRUNCATE risk_state_history",
            "DELETE FROM risk_seal_run WHERE kind = 'expired'",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
                db.execute(statement)
    assert removed


def test_an_entry_lets_go_what_it_names_alone(url: str) -> None:
    """In the transaction that has added it, as an owner without other privileges would."""
    day = kept_from(url)
    delete = "DELETE FROM risk_state_history WHERE recorded_at"
    with psycopg.connect(url, autocommit=True) as db:
        fill(url, ["late"], BEGIN, 1, stored_at=datetime.now(UTC))
        for condition in (f"= '{TODAY - 2 * DAY}'", f"< '{day}Z'"):  # too young, and not sealed
            with db.transaction(force_rollback=True):
                assert expire(db, day) is not None
                with pytest.raises(psycopg.errors.RaiseException, match="DELETE is refused"):
                    db.execute(f"{delete} {condition}".encode())
        with db.transaction(force_rollback=True):
            assert expire(db, day) is not None
            with pytest.raises(psycopg.errors.RaiseException, match="UPDATE is refused"):
                db.execute("UPDATE risk_state_history SET reason = 'x' WHERE seq = 3")
        with db.transaction(force_rollback=True):
            entry = expire(db, day)
            assert entry is not None
            assert db.execute(f"{delete} < '{day}Z' AND trader_id <> 'late'".encode()).rowcount == entry.rows
        with db.transaction():
            expire(db, day)
        with pytest.raises(psycopg.errors.RaiseException, match="DELETE is refused"):
            db.execute(f"{delete} < '{day}Z' AND trader_id <> 'late'".encode())


def test_two_at_the_same_time(database_url: str) -> None:
    fill(database_url, ["a"], BEGIN, 32)
    seal(database_url)
    with psycopg.connect(database_url) as db:
        lock(db)
        with pytest.raises(ChainBusy):
            list(retain(database_url, KEEP))
    assert list(retain(database_url, KEEP))


def test_sums_outlast_the_rows(enabled_url: str) -> None:
    fill(enabled_url, ["a", "b"], BEGIN, 32)
    seal(enabled_url)
    with psycopg.connect(enabled_url, autocommit=True) as db:
        daily = rows(db, "SELECT * FROM risk_daily ORDER BY trader_id, bucket")
        hourly = rows(db, "SELECT * FROM risk_hourly ORDER BY trader_id, bucket")
        assert len(daily) == 64
        assert list(retain(enabled_url, KEEP))
        for (number,) in rows(
            db, "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_refresh%'"
        ):
            db.execute("CALL run_job(%s)", (number,))
        assert rows(db, "SELECT * FROM risk_daily ORDER BY trader_id, bucket") == daily
        assert rows(db, "SELECT * FROM risk_hourly ORDER BY trader_id, bucket") == hourly


def test_a_worker_removes_and_logs(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    retention = Retention(Settings(postgres_url=database_url, retain_for="14d"))
    fill(database_url, ["a"], BEGIN, 32)
    for _ in range(2):
        retention.look()
    assert (
        caplog.text.count("The worker could not remove old history, and tries again: history is removed only")
        == 1
    )
    seal(database_url)
    retention.look()
    assert "Removed 4 rows recorded before" in caplog.text
    assert "as RISK_RETAIN_FOR=14d says; head to be kept: " in caplog.text
    assert verify(database_url, deep=True).intact


def test_the_command(database_url: str, run: Run) -> None:
    fill(database_url, ["a"], BEGIN, 32)
    seal(database_url)
    limit = kept_from(database_url)
    done = run(database_url, "retain", "--dry-run", RISK_RETAIN_FOR="14d")
    rows_due = ((limit - BEGIN.date()).days) * 4
    assert done.stdout == f"{rows_due:,} rows that were recorded before {limit} would be removed\n"
    done = run(database_url, "retain", RISK_RETAIN_FOR="14d")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith(
        f"Removed 4 rows recorded before {limit}; head to be kept: "
    )
    assert run(database_url, "retain", RISK_RETAIN_FOR="14d").stdout == "Nothing that is sealed is older\n"
    shown = run(database_url, "timescale", "status", RISK_RETAIN_FOR="14d")
    assert f"history is kept for 14 days; removed before {limit}" in shown.stdout


def test_new_rows_in_the_place_of_old_ones_do_not_blind_the_index(database_url: str) -> None:
    """By stored_at: a range whose rows were removed knows nothing of their times any more."""
    fill(database_url, ["a", "b"], BEGIN, 32, a_day=400)
    seal(database_url)
    assert list(retain(database_url, KEEP))
    with psycopg.connect(database_url, autocommit=True) as db:
        [(size,)] = rows(db, "SELECT pg_relation_size('risk_state_history')")
        fill(database_url, ["c"], TODAY - DAY, 1, a_day=13000, stored_at=datetime.now(UTC))
        assert rows(db, "SELECT pg_relation_size('risk_state_history')") == [(size,)], "they take the room"
        db.execute("SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0")
        plan = db.execute(
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM risk_state_history WHERE stored_at >= %s"
            " AND stored_at < %s",
            (TODAY - 8 * DAY, TODAY - 7 * DAY),
        ).fetchall()
    assert "'Index Name': 'risk_state_history_stored_at'" in str(plan)
    [read_in_vain] = re.findall(r"'Rows Removed by Index Recheck': (\d+)", str(plan))
    assert int(read_in_vain) < 3000
