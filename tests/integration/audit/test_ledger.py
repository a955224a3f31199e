"""The ledger of a real database, and what the reconciliation finds in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.ledger import EpochKey, EpochTotals, Ledger
from risk_worker.audit.reconcile import reconcile

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def add(url: str, table: str, **values: Any) -> None:
    columns = ", ".join(values)
    places = ", ".join("%s" for _ in values)
    with psycopg.connect(url) as connection:
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(values.values()))


def row(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "trader_id": "t1",
        "epoch": 7,
        "seq": seq,
        "recorded_at": NOW + timedelta(seconds=seq),
        "daily_pnl": 1.0,
        "drawdown_pct": 2.0,
        "current_equity": 3.0,
        "peak_equity": 4.0,
        "trading_paused": False,
        "last_reset_time": NOW,
        **changes,
    }


def fill(url: str, rows: list[dict[str, Any]], state: dict[str, Any] | None) -> Ledger:
    for values in rows:
        add(url, "risk_state_history", **values)
    if state is not None:
        add(url, "risk_state", **state)
    return audit_ledger.read(url)


def problems(ledger: Ledger, accepted: dict[EpochKey, int] | None = None) -> list[str]:
    """Of a database alone: nothing waits in a stream."""
    report = reconcile(accepted or {}, {}, ledger)
    if accepted and not report.problems:
        assert {(epoch.trader_id, epoch.epoch): epoch.accepted for epoch in report.epochs} == accepted
    return report.problems


def test_an_empty_database_is_reconciled(database_url: str) -> None:
    ledger = audit_ledger.read(database_url)
    assert ledger == Ledger({})
    assert problems(ledger) == []
    assert problems(ledger, {("t1", 1): 3}) == ["t1, epoch 1: lost seq 1 to 3 (3)"]


def test_rows_conflated_and_dead_make_up_what_was_accepted(database_url: str) -> None:
    letter = {"stream": "s", "reason": "r"}
    dead = json.dumps({"merged": 2, "reason": "ü"}).encode()
    add(
        database_url, "risk_dead_letter", **letter, entry_id="1", trader_id="t1", epoch=7, seq=6, payload=dead
    )
    add(database_url, "risk_dead_letter", **letter, entry_id="2", payload=b"\xff rubbish")
    ledger = fill(database_url, [row(1), row(3, merged=1), row(7), row(1, epoch=9)], row(1, epoch=9))
    assert ledger.epochs == {("t1", 7): EpochTotals(3, 1, 3, 0, 0), ("t1", 9): EpochTotals(1, 0, 0, 0, 0)}
    assert (ledger.rows, ledger.unidentified) == (4, 1)
    assert problems(ledger, {("t1", 7): 7, ("t1", 9): 1}) == []
    assert problems(ledger, {("t1", 7): 8}) == ["t1, epoch 7: lost seq 8"]


@pytest.mark.parametrize(
    ("seqs", "lost"), [((2, 3), "1"), ((1, 4, 5), "2 to 3 (2)"), ((1, 2, 3, 6), "4 to 5 (2)")]
)
def test_a_gap_is_found(database_url: str, seqs: tuple[int, ...], lost: str) -> None:
    ledger = fill(database_url, [row(seq) for seq in seqs], row(seqs[-1]))
    assert ledger.epochs["t1", 7].missing == seqs[-1] - len(seqs)
    assert problems(ledger) == [f"t1, epoch 7: lost seq {lost}"]


def test_one_identity_under_two_times_is_found(database_url: str) -> None:
    again = row(2) | {"recorded_at": NOW}
    ledger = fill(database_url, [row(1), row(2), again], row(2))
    assert problems(ledger) == ["t1, epoch 7: 1 stored more than once"]


def test_a_row_that_stands_for_one_that_is_there_is_found(database_url: str) -> None:
    ledger = fill(database_url, [row(1), row(2), row(3, merged=1)], row(3))
    assert problems(ledger) == ["t1, epoch 7: 1 stored more than once"]


@pytest.mark.parametrize(
    "state",
    [
        None,
        row(1),
        row(2, epoch=6),
        row(2, current_equity=3.5),
        row(2, paused_until=NOW),
        row(2, reason="x"),
        row(3),
    ],
)
def test_a_state_that_is_not_the_newest_is_found(database_url: str, state: dict[str, Any] | None) -> None:
    ledger = fill(database_url, [row(1), row(2)], state)
    assert problems(ledger) == ["t1: risk_state is not the newest of its history"]


def test_a_state_without_history_is_found(database_url: str) -> None:
    assert fill(database_url, [], row(1)).stale == ("t1",)
