"""Lines of snapshots, and which of them were missed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from risk_worker.status.tail import Missed, as_json, as_text
from risk_worker.stream.follow import Arrival
from tests.support.factory import wire


@pytest.mark.parametrize(
    ("seen", "missed"),
    [
        ([(1, 5, 0), (1, 6, 0), (1, 7, 0)], [0, 0, 0]),  # the first one seen is where it begins
        ([(1, 5, 0), (1, 9, 0)], [0, 3]),
        ([(1, 5, 0), (1, 9, 3)], [0, 0]),  # a conflated one stands for those before it
        ([(1, 5, 0), (1, 9, 2)], [0, 1]),
        ([(1, 5, 0), (2, 1, 0)], [0, 0]),
        ([(1, 5, 0), (2, 3, 0)], [0, 2]),  # of a new incarnation the first ones are missed
        ([(2, 5, 0), (1, 9, 0), (2, 6, 0)], [0, 0, 0]),  # a former incarnation sends what it has
        ([(1, 5, 0), (1, 5, 0), (1, 4, 0)], [0, None, None]),  # seen already
    ],
)
def test_gaps_are_counted(seen: list[tuple[int, int, int]], missed: list[int | None]) -> None:
    count = Missed()
    assert [count.before(wire("t", seq, epoch=epoch, merged=merged)) for epoch, seq, merged in seen] == missed


def test_traders_are_told_apart() -> None:
    count = Missed()
    assert [count.before(wire(trader, seq)) for trader, seq in (("a", 1), ("b", 7), ("a", 2))] == [0, 0, 0]


def test_a_line() -> None:
    until = datetime(2026, 11, 26, 12, tzinfo=UTC)
    found = wire("a\nb", 3, trading_paused=True, paused_until=until, reason="limit")
    assert as_text(found) == (
        "00:00:03.000  a\\nb  equity 99,500.00  pnl +3.00  drawdown 0.50 %"
        "  PAUSED until 2026-11-26 12:00:00 UTC  limit"
    )


def test_an_object() -> None:
    text = as_json(Arrival(7, "12-0", {}), wire("ü", 3))
    assert "\n" not in text
    found = json.loads(text)
    assert (found["partition"], found["entry_id"], found["trader_id"], found["seq"]) == (7, "12-0", "ü", 3)
