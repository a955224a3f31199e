"""Closing: no row comes in with a time that is closed, by whatever way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from risk_worker.database.connection import Connection
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import decode_entries
from risk_worker.drain.errors import StoreUnavailable
from risk_worker.seal import sealer as module
from risk_worker.seal.chain import SQL, ChainBusy
from risk_worker.seal.sealer import ClocksDiffer, Sealer, WritersBusy
from risk_worker.seal.verify import verify
from tests.integration.seal.conftest import HOUR, clocks_ahead, fill, seal
from tests.support.database import STREAM
from tests.support.factory import entry, payload

COLUMNS = (
    "trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity, "
    "trading_paused, last_reset_time"
)
VALUES = ("late", "2026-01-01Z", 1, 1, 0, 0, 0, 0, False, "2026-01-01Z")


def insert(db: psycopg.Connection) -> None:
    db.execute(
        f"INSERT INTO risk_state_history ({COLUMNS}) VALUES ({', '.join(['%s'] * 10)})".encode(), VALUES
    )


def insert_select(db: psycopg.Connection) -> None:
    db.execute(
        "INSERT INTO risk_state_history SELECT (jsonb_populate_record(h, '{\"epoch\": 99}')).*"
        " FROM risk_state_history h LIMIT 1 ON CONFLICT DO NOTHING"
    )


def copy(db: psycopg.Connection) -> None:
    with db.cursor().copy(f"COPY risk_state_history ({COLUMNS}) FROM STDIN".encode()) as copying:
        copying.write_row(VALUES)


def close(url: str) -> None:
    with psycopg.connect(url) as db:
        [(now,)] = db.execute(SQL["clock"]).fetchall()
        db.execute(SQL["close"], {"until": now})


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("add", [insert, insert_select, copy])
def test_a_transaction_from_before_is_refused(
    url: str, add: Callable[[psycopg.Connection], None], isolation: str
) -> None:
    with psycopg.connect(url) as writer:
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        writer.execute("SELECT count(*) FROM risk_seal_mark")
        close(url)
        with pytest.raises(errors.SerializationFailure):
            add(writer)
        writer.rollback()
        add(writer)  # a new transaction


def test_a_transaction_that_goes_on_for_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is closed, so that it may go on inserting."""
    monkeypatch.setattr(module, "WRITERS_S", 0)
    with psycopg.connect(url) as writer:
        insert(writer)
        busy = rf"the pid {writer.info.backend_pid} has been inserting"
        with clocks_ahead(2) as now, pytest.raises(WritersBusy, match=busy):
            seal(url, now=now)
        insert_select(writer)
        writer.commit()
        assert seal(url) >= 4


def test_who_inserts_never_waits_for_a_sealer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as other:
        insert(other)  # on a hypertable, its chunk
        other.execute("SET lock_timeout = 200")
        monkeypatch.setattr(f"{__name__}.VALUES", ("writer", *VALUES[1:]))
        insert(writer)

        def meanwhile(_: float) -> None:
            for add in (insert_select, copy):
                add(other)
            writer.commit()

        monkeypatch.setattr(module, "sleep", meanwhile)
        monkeypatch.setattr(f"{__name__}.VALUES", ("other", *VALUES[1:]))
        assert seal(url) >= 4
    assert verify(url, deep=True).intact


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
def test_the_rows_of_one_who_saw_an_earlier_mark_are_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    """It inserts in the moment before the mark is set, and commits when the run is being made.

    default: of the database; a snapshot from before the commit would not have the row.
    """
    seal(url)  # so that the row belongs to the next run
    wait = module._wait_for_writers
    waits: list[Connection] = []
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            f"ALTER DATABASE {db.info.dbname} SET default_transaction_isolation = '{default}'".encode()
        )
    with psycopg.connect(url) as writer:
        writer.isolation_level = psycopg.IsolationLevel.READ_COMMITTED

        def waiting(connection: Connection) -> None:
            wait(connection)
            if not waits:
                insert(writer)
            waits.append(connection)

        monkeypatch.setattr(module, "_wait_for_writers", waiting)
        monkeypatch.setattr(module, "sleep", lambda _: writer.commit())
        with clocks_ahead(2) as now:
            seal(url, now=now)
            report = verify(url, deep=True)
            assert (report.rows, report.rows_read) == (106, 106)
    assert [found.kind for found in report.findings] == []


def test_one_above_read_committed_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It inserts after the sealer has looked for writers, and before it sets the mark."""
    with psycopg.connect(url) as writer:
        writer.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        monkeypatch.setattr(module, "_wait_for_writers", lambda _: insert(writer))
        with pytest.raises(WritersBusy, match="a transaction above READ COMMITTED"):
            seal(url)


def test_history_that_is_locked_is_not_taken_for_a_writer(url: str) -> None:
    """As while a migration runs, or `riskstream timescale enable` moves the rows."""
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match="lock timeout") as caught:
            seal(url)
        assert not isinstance(caught.value, WritersBusy)
    assert seal(url) >= 4


@pytest.mark.parametrize(
    ("mode", "sealed"), [("ACCESS SHARE", True), ("SHARE UPDATE EXCLUSIVE", False), ("ROW EXCLUSIVE", True)]
)
def test_locks_of_a_dump_and_of_a_vacuum(url: str, mode: str, sealed: bool) -> None:
    """Who inserts waits for none of them; beside a vacuum it is sealed at the next look."""
    with psycopg.connect(url) as other:
        insert(other)  # on a hypertable, its chunk
        other.commit()
        for table in (
            "risk_seal_mark",
            "risk_seal_run",
            "risk_seal",
            "risk_epoch_total",
            "risk_state_history",
        ):
            other.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        with psycopg.connect(url) as writer:
            writer.execute("SET lock_timeout = 200")
            insert_select(writer)
        assert (seal(url) > 0) == sealed


def test_a_writer_needs_no_privilege_on_the_mark(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        role = f"writer_{db.info.dbname}"
        db.execute(
            f"CREATE ROLE {role}; GRANT INSERT, SELECT ON risk_state_history TO {role};"
            f"GRANT pg_read_all_data TO {role}; SET ROLE {role}"
        )
        try:
            insert(db)
            for statement in (
                "UPDATE risk_seal_mark SET closed_until = '-infinity'",
                "LOCK TABLE risk_seal_mark IN ROW SHARE MODE",
                "LOCK TABLE risk_seal_mark IN EXCLUSIVE MODE",
                "SELECT FROM risk_seal_mark FOR SHARE",
            ):
                with pytest.raises(errors.InsufficientPrivilege), db.transaction():
                    db.execute(statement)
        finally:
            db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_worker_tries_again_and_a_clock_that_ran_ahead_is_put_right(url: str) -> None:
    batch = decode_entries(STREAM, [entry(1, payload("t", 1))])
    with psycopg.connect(url) as db:
        db.execute("UPDATE risk_seal_mark SET closed_until = now() + interval '1 day'")
    with PostgresStore(url) as store, Sealer(url, HOUR) as sealer:
        with pytest.raises(StoreUnavailable, match="history is closed until"):
            store.save(batch)
        sealer.reopen()
        assert store.save(batch).dead == []


def test_runs_of_a_clock_that_ran_ahead_are_undone(url: str, connection: psycopg.Connection) -> None:
    """The rows that it stored are verified as before; what is stored from now on is sealed in new runs."""
    batch = decode_entries(STREAM, [entry(1, payload("t", 1))])
    good = seal(url)
    with clocks_ahead(6) as now:
        fill(url, ["ahead"], now - 5 * HOUR)
        assert seal(url, now=now) >= 5
        assert verify(url, deep=True).intact
    [found] = verify(url).findings
    assert (found.kind, "run riskstream seal reopen" in found.message) == ("clock", True)
    with PostgresStore(url) as store:
        with pytest.raises(StoreUnavailable, match="history is closed until"):
            store.save(batch)
        with Sealer(url, HOUR) as sealer:
            done = sealer.reopen()
            assert done.entry is not None
            assert (done.entry.kind, done.entry.rows, done.closed_until) == ("reopened", 35, done.entry.until)
            again = sealer.reopen()
            assert (again.entry, again.closed_until) == (None, done.closed_until)
        assert store.save(batch).dead == []
    report = verify(url, deep=True)
    assert (report.findings, report.rows_read) == ([], 140)
    [note] = report.notes
    # Of those that were made ahead, the first is of an hour that may have ended meanwhile.
    undid = "Entry {0} undid runs {2} to {1}, of 35 rows"
    last = done.entry.number - 1
    assert any(undid.format(last + 1, last, first) in note for first in (good + 1, good + 2))

    with clocks_ahead(6) as now:
        seal(url, now=now)
        report = verify(url, deep=True)
        assert (report.findings, report.rows_read, report.notes) == ([], 176, [note])
        connection.execute(
            "UPDATE risk_state_history SET daily_pnl = 7 WHERE trader_id = 'ahead' AND seq = 4"
        )
        found, twice = verify(url, deep=True).findings
        assert (found.kind, found.trader_id, twice.kind, twice.trader_id) == ("changed", "ahead") * 2
        assert f", undone by entry {done.entry.number}: ahead" in found.message
        assert (found.run or 0) < done.entry.number < (twice.run or 0)


def test_a_first_run_of_a_clock_that_ran_ahead(database_url: str) -> None:
    with clocks_ahead(3) as now:
        assert seal(database_url, now=now) == 1
    with Sealer(database_url, HOUR) as sealer:
        done = sealer.reopen()
        assert done.entry is not None
        assert (done.closed_until, done.entry.until, done.entry.since is None) == (None, None, False)
    with psycopg.connect(database_url) as db:
        insert(db)
    for hours in (0, 2, 3):
        with clocks_ahead(hours) as now:
            seal(database_url, now=now)
            report = verify(database_url, deep=True)
            assert (report.findings, report.rows_read) == ([], hours // 2)


def test_a_sealer_at_work_is_not_disturbed(url: str, connection: psycopg.Connection) -> None:
    with Sealer(url, HOUR) as sealer, Sealer(url, HOUR) as other:
        with psycopg.connect(url) as working:
            working.execute(SQL["lock_chain"])
            with pytest.raises(ChainBusy, match="try it again"):
                other.reopen()
            assert list(sealer.seal()) == []
        runs = sealer.seal()
        assert next(runs).number == 1
        connection.execute("UPDATE risk_seal_mark SET closed_until = '-infinity'")
        assert list(runs) == []


@pytest.mark.parametrize("apart", [timedelta(minutes=2), timedelta(days=-300)])
def test_nothing_is_sealed_while_clocks_differ(url: str, apart: timedelta) -> None:
    with pytest.raises(ClocksDiffer, match="Set the clocks"):
        seal(url, now=datetime.now(UTC) + apart)
    assert verify(url).closed_until is None


def test_a_window_is_not_sealed_before_its_end(url: str) -> None:
    seal(url)
    report = verify(url)
    assert report.sealed_until == report.closed_until
    assert report.sealed_until is not None
    assert report.sealed_until <= datetime.now(UTC) - timedelta(minutes=1)
    assert seal(url) == 0
