"""`riskstream retain`: what is old and sealed goes, with an entry in the chain of seals, and nothing else."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from risk_producer.settings import Settings
from risk_worker.database import connection as database
from risk_worker.database.extension import look
from risk_worker.runtime.retention import Retention
from risk_worker.seal.chain import SQL as CHAIN
from risk_worker.seal.chain import ChainBusy, lock
from risk_worker.seal.expiry import expire, last_expiry
from risk_worker.seal.sealer import ClocksDiffer, Sealer
from risk_worker.seal.verify import verify
from risk_worker.timescale.retention import SQL, HistoryDiffers, NothingSealed, Removed, due, retain
from tests.integration.seal.conftest import clocks_ahead
from tests.integration.seal.conftest import seal as seal_windows
from tests.integration.timescale.conftest import Run
from tests.support.database import rows, set_odd_defaults
from tests.support.history import DAY, TODAY, fill
from tests.support.interrupted import cut_at_each_statement
from tests.support.wait import wait_until

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


def test_defaults_of_the_database_change_nothing(url: str, run: Run) -> None:
    limit = datetime.combine(kept_from(url), time(), UTC)
    old = sum(row[1] < limit for row in history(url))
    set_odd_defaults(url)
    assert gone(url, list(retain(url, KEEP))) == old
    assert "Traceback" not in run(url, "timescale", "status").output


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


@pytest.mark.parametrize(
    ("attack", "there"),
    [
        ("DELETE FROM risk_state_history WHERE trader_id = 'a' AND seq IN (3, 6, 7)", -3),
        (
            "INSERT INTO risk_state_history SELECT (jsonb_populate_record(h, '{\"seq\": 9999}')).*"
            " FROM risk_state_history h WHERE trader_id = 'a' AND seq = 3",
            1,
        ),
    ],
)
def test_a_difference_that_is_accepted_stays_known(url: str, run: Run, attack: str, there: int) -> None:
    """Retention stops there and says what to do; the chain has both numbers from then on."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute(attack.encode())
    limit = datetime.combine(kept_from(url), time(), UTC)
    sealed = sum(row[1] < limit for row in history(url)) - there
    keep = {"RISK_RETAIN_FOR": "14d"}
    for _ in range(2):
        done = run(url, "retain", **keep)
        assert done.exit_code == 2
        assert "riskstream retain --accept-difference removes what is there" in done.stderr
    status = run(url, "timescale", "status", RISK_RETAIN_FOR="7d")
    assert (
        f"Rows recorded on {BEGIN:%Y-%m-%d} should be gone by now, as RISK_RETAIN_FOR is 7d" in status.stdout
    )
    done = run(url, "retain", "--accept-difference", **keep)
    assert done.exit_code == 0, done.output
    assert [row for row in history(url) if row[1] < limit] == []
    report = verify(url, deep=True)
    assert (report.findings, report.expired) == ([], sealed + there)
    assert report.expired_until == str(limit.date())
    noted = "".join(report.notes)
    assert re.search(r"Entry \d+ let \d+ rows expire where \d+ were sealed", noted)
    assert "let riskstream retain accept that" in run(url, "seal", "verify").stdout
    assert run(url, "retain", **keep).stdout == "Nothing that is sealed is older\n"
    assert "should be gone" not in run(url, "timescale", "status", **keep).stdout


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


def test_nothing_counts_where_all_runs_were_undone(database_url: str) -> None:
    with clocks_ahead(24 * 40) as now:
        seal(database_url, now)
    with Sealer(database_url, DAY) as sealer:
        assert sealer.reopen().closed_until is None
    fill(database_url, ["a"], BEGIN, 32)
    with pytest.raises(NothingSealed):
        list(retain(database_url, KEEP))


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


def test_a_vacuum_that_is_under_way_is_waited_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is done; what is left is that its room and its place in the index can be used."""
    fill(database_url, ["a"], BEGIN, 32)
    seal(database_url)
    hasty = replace(database.RETAIN, settings={**database.RETAIN.settings, "lock_timeout": "1ms"})
    monkeypatch.setattr(database, "RETAIN", hasty)
    waiting = (
        "SELECT FROM pg_stat_activity"
        " WHERE application_name = 'riskstream-retain' AND wait_event_type = 'Lock'"
    )
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database_url) as other,
        psycopg.connect(database_url, autocommit=True) as db,
    ):
        other.execute("LOCK TABLE risk_state_history IN SHARE UPDATE EXCLUSIVE MODE")
        removed = pool.submit(lambda: list(retain(database_url, KEEP)))
        wait_until(lambda: removed.done() or db.execute(waiting).rowcount, what="retain to wait for the lock")
        other.rollback()
        assert removed.result(60)


def test_one_that_is_cut_off_at_any_statement_goes_on(url: str) -> None:
    """What a step began is undone by Postgres, and done by the next."""
    limit = datetime.combine(kept_from(url), time(), UTC)
    kept = [row for row in history(url) if row[1] >= limit]

    def look() -> None:
        assert verify(url, deep=True).findings == []

    assert cut_at_each_statement(lambda: list(retain(url, KEEP)), look) > 10
    assert history(url) == kept


def test_days_that_are_gone_are_not_looked_at_again(database_url: str) -> None:
    """What is due is found by the indexes of the seals, however many have expired before."""
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute(
            "INSERT INTO risk_seal_run (number, version, kind, from_at, until_at, expired_until, leaves,"
            " rows, digest, head)"
            " SELECT n, 1, 'expired', now(), now(), date '2026-01-01' + n - 1, 0, 0, '', ''"
            " FROM generate_series(1, 300) AS n"
        )
        db.execute(
            "INSERT INTO risk_seal (run, trader_id, epoch, day, rows, merged, covered, digest)"
            " SELECT n, 't' || t, 1, date '2026-01-01' + n, 1, 0, '{}', '' FROM generate_series(1, 310) AS n,"
            " generate_series(1, 200) AS t ORDER BY n"
        )
        db.execute("VACUUM ANALYZE risk_seal")
        after, since = last_expiry(db)
        asked = {"before": date(2026, 1, 1) + timedelta(days=305), "after": after, "since": since}
        for statement in (SQL["days"], CHAIN["expire"]):
            [(plans,)] = db.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode(), asked).fetchall()
            assert read_of(plans[0]["Plan"], "risk_seal") < 20_000, "of 62,000"
        assert len(db.execute(SQL["days"], asked).fetchall()) == 6


def read_of(plan: dict[str, Any], table: str) -> float:
    """How many rows of a table a plan has read."""
    own = 0.0
    if plan.get("Relation Name") == table:
        removed = sum(count for name, count in plan.items() if name.startswith("Rows Removed"))
        own = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return own + sum(read_of(child, table) for child in plan.get("Plans", ()))


def test_a_plain_table_that_became_a_hypertable_goes_on(hypertable_url: str) -> None:
    """Days were removed up to one in the midst of what is now a chunk, and rows of such days come late."""
    fill(hypertable_url, ["a", "b"], BEGIN, 32)
    seal(hypertable_url)
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        bounds = rows(db, "SELECT range_start FROM timescaledb_information.chunks ORDER BY 1 LIMIT 2")
        chunk: datetime = bounds[1][0].astimezone(UTC)
        day = (chunk + 3 * DAY).date()
        with db.transaction():
            entry = expire(db, day)
            assert entry is not None
            gone_by_rows = db.execute(
                "DELETE FROM risk_state_history WHERE recorded_at < %s", (chunk + 3 * DAY,)
            )
            assert gone_by_rows.rowcount == entry.rows
    for begin in (BEGIN, chunk + DAY):
        fill(hypertable_url, [f"late {begin}"], begin, 1, stored_at=entry.sealed_until)
    with clocks_ahead(2) as now:
        assert seal_windows(hypertable_url, timedelta(minutes=10), now)
    limit = datetime.combine(kept_from(hypertable_url), time(), UTC)
    assert sum(each.rows for each in retain(hypertable_url, KEEP)) > 8
    found = verify(hypertable_url, deep=True).findings
    assert {each.kind for each in found} == {"clock"}, "history was closed ahead of time"
    assert {row for row in history(hypertable_url) if row[1] < limit} == set()


def test_chunks_that_were_dropped_by_hand_are_named(hypertable_url: str, run: Run) -> None:
    """All that were due, so that there is no old chunk any more."""
    fill(hypertable_url, ["a", "b"], BEGIN, 32)
    seal(hypertable_url)
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        db.execute("SELECT drop_chunks('risk_state_history', now() - interval '7 days')")
    before = history(hypertable_url)
    with pytest.raises(HistoryDiffers, match="and 0 are there"):
        list(retain(hypertable_url, KEEP))
    done = run(hypertable_url, "retain", "--accept-difference", RISK_RETAIN_FOR="14d")
    assert done.exit_code == 0, done.output
    assert history(hypertable_url) == before
    assert "let 0 rows expire where" in run(hypertable_url, "seal", "verify").stdout
    assert list(retain(hypertable_url, KEEP)) == []


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
    assert "The worker removed 4 rows recorded before" in caplog.text
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
