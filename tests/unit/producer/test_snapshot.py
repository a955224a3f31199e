"""RiskSnapshot is checked where it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from risk_producer import InvalidSnapshot
from tests.support.producers import snapshot


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trader_id", ""),
        ("trader_id", "x" * 256),
        ("trader_id", "a\0"),
        ("trader_id", "\ud800"),
        ("trader_id", 7),
        ("trace_id", "x" * 256),
        ("trace_id", None),
        ("reason", "x" * 1025),
        ("reason", "\0"),
        ("daily_pnl", float("nan")),
        ("drawdown_pct", float("inf")),
        ("current_equity", "1.0"),
        ("current_equity", None),
        ("peak_equity", True),
        ("peak_equity", 10**400),
        ("trading_paused", 1),
        ("paused_until", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("paused_until", "tomorrow"),
        ("last_reset_time", None),
        ("recorded_at", datetime(1999, 12, 31, tzinfo=UTC)),
        ("recorded_at", datetime(2200, 1, 1, tzinfo=UTC)),
        ("recorded_at", datetime(2026, 1, 1)),  # noqa: DTZ001
    ],
)
def test_what_breaks_a_rule_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidSnapshot, match=field):
        snapshot(**{field: value})


def test_the_limits_themselves_are_allowed() -> None:
    snapshot("x" * 255, trace_id="x" * 255, reason="x" * 1024, recorded_at=datetime(2000, 1, 1, tzinfo=UTC))


def test_numbers_become_floats_and_times_utc() -> None:
    east = timezone(timedelta(hours=5))
    made = snapshot(pnl=Decimal("1.5"), peak_equity=7, recorded_at=datetime(2026, 1, 1, 5, tzinfo=east))
    assert type(made.daily_pnl) is float and type(made.peak_equity) is float
    assert made.recorded_at == datetime(2026, 1, 1, tzinfo=UTC) and made.recorded_at.tzinfo is UTC


def test_times_default_to_now() -> None:
    before = datetime.now(UTC)
    made = snapshot()
    assert before <= made.last_reset_time <= datetime.now(UTC)
    assert before <= made.recorded_at <= datetime.now(UTC)


def test_it_cannot_be_changed() -> None:
    made: Any = snapshot()
    with pytest.raises(AttributeError):
        made.daily_pnl = 1.0
