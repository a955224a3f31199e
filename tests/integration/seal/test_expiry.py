"""What retention removes: an entry of the chain says so, and nothing else may be missing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from risk_worker.seal.chain import SQL, ChainBusy
from risk_worker.seal.expiry import Expired, expire
from risk_worker.seal.verify import Report, verify
from tests.integration.seal.conftest import clocks_ahead, fill, seal

DAY_S = 86_400
BEFORE = datetime.now(UTC).date() - timedelta(days=5)


def remove(url: str, before: date = BEFORE) -> Expired | None:
    """As retention does."""
    with psycopg.connect(url) as db:
        expired = expire(db, before)
        if expired is not None:
            db.execute("SET LOCAL session_replication_role = replica")
            gone = db.execute(
                "DELETE FROM risk_state_history WHERE recorded_at < %s AND stored_at < %s",
                (datetime.combine(before, datetime.min.time(), UTC), expired.sealed_until),
            )
            assert gone.rowcount == expired.rows
        return expired


def intact(url: str) -> Report:
    report = verify(url, deep=True)
    assert report.findings == []
    return report


def test_what_has_expired_is_not_missing(url: str, connection: psycopg.Connection) -> None:
    fill(url, ["old"], late_s=10 * DAY_S)
    assert remove(url) is None, "nothing is sealed yet"
    seal(url)
    expired = remove(url)
    assert expired is not None
    assert expired.rows == 35
    report = intact(url)
    assert (report.rows, report.expired, report.rows_read, report.head) == (140, 35, 105, expired.head)
    assert remove(url) is None
    assert remove(url, BEFORE - timedelta(days=1)) is None

    # Rows that come late, of days that have expired, go with the next entry.
    fill(url, ["late"], late_s=10 * DAY_S)
    connection.execute("UPDATE risk_state_history SET stored_at = now() WHERE trader_id = 'late'")
    assert remove(url) is None
    with clocks_ahead(2) as now:
        seal(url, now=now)
        assert intact(url).rows_read == 140
        expired = remove(url)
        assert expired is not None
        assert expired.rows == 35
        assert (intact(url).expired, intact(url).rows_read) == (70, 105)
    totals = connection.execute(
        "SELECT trader_id, rows, expired FROM risk_epoch_total WHERE expired > 0 ORDER BY 1"
    ).fetchall()
    assert totals == [("late", 35, 35), ("old", 35, 35)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (
            "INSERT INTO risk_state_history SELECT (jsonb_populate_record(h, jsonb_build_object("
            "'trader_id', 'old', 'recorded_at', recorded_at - interval '10 days'))).*"
            " FROM risk_state_history h WHERE trader_id = 'a' AND seq = 30",
            "added",
        ),
        ("DELETE FROM risk_state_history WHERE trader_id = 'a' AND seq = 30", "removed"),
        ("UPDATE risk_seal_run SET expired_until = expired_until + 3 WHERE kind = 'expired'", "seal"),
        ("UPDATE risk_epoch_total SET expired = 0", "total"),
    ],
)
def test_what_an_entry_does_not_cover(
    url: str, connection: psycopg.Connection, change: str, kind: str
) -> None:
    fill(url, ["old"], late_s=10 * DAY_S)
    seal(url)
    remove(url)
    connection.execute(change.encode())
    assert kind in {found.kind for found in verify(url, deep=True).findings}


def test_one_at_a_time(url: str) -> None:
    fill(url, ["old"], late_s=10 * DAY_S)
    seal(url)
    with psycopg.connect(url) as working, psycopg.connect(url) as db:
        working.execute(SQL["lock_chain"])
        with pytest.raises(ChainBusy, match="try it again"):
            expire(db, BEFORE)
