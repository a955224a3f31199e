"""Closing: no row comes in with a time that is closed, by whatever way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import decode_entries
from risk_worker.drain.errors import StoreUnavailable
from risk_worker.seal.chain import SQL
from risk_worker.seal.sealer import ClocksDiffer, Sealer
from risk_worker.seal.verify import verify
from tests.integration.seal.conftest import HOUR, seal
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


def close(url: str, *, timeout_ms: int = 500) -> None:
    with psycopg.connect(url) as db:
        db.execute(f"SET LOCAL lock_timeout = {timeout_ms}".encode())
        db.execute(SQL["lock_writers"])
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


def test_a_transaction_that_has_inserted_is_waited_for(url: str) -> None:
    with psycopg.connect(url) as writer:
        insert(writer)
        with pytest.raises(errors.LockNotAvailable):
            close(url, timeout_ms=10)
        with pytest.raises(DatabaseUnavailable, match="has been inserting into history for long"):
            seal(url)
        writer.commit()
        close(url)
        writer.execute("SELECT 1")
        close(url)
        with pytest.raises(errors.SerializationFailure):
            insert(writer)


def test_a_writer_needs_no_privilege_on_the_mark(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        role = f"writer_{db.info.dbname}"
        db.execute(
            f"CREATE ROLE {role}; GRANT INSERT, SELECT ON risk_state_history TO {role}; SET ROLE {role}"
        )
        try:
            insert(db)
            with pytest.raises(errors.InsufficientPrivilege):
                db.execute("UPDATE risk_seal_mark SET closed_until = '-infinity'")
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
