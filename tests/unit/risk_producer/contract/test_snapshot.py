"""RiskSnapshot is checked where it is made."""

from __future__ import annotations

import contextlib
import enum
import gc
import math
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from risk_producer import InvalidSnapshot
from risk_producer.contract.rejected import invalid_total
from risk_producer.contract.wire import decode, encode
from tests.support.factory import snapshot

NUMBERS = ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity")


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
        ("last_reset_time", "today"),
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


def test_recorded_at_defaults_to_now() -> None:
    before = datetime.now(UTC)
    made = snapshot()
    assert before <= made.recorded_at <= datetime.now(UTC)


def test_it_cannot_be_changed() -> None:
    made: Any = snapshot()
    with pytest.raises(AttributeError):
        made.daily_pnl = 1.0


def is_plain(made: Any) -> bool:
    """Whether every field is of an exact plain type."""
    times = [made.recorded_at, *(time for time in (made.paused_until, made.last_reset_time) if time)]
    return (
        all(type(text) is str for text in (made.trader_id, made.trace_id, made.reason))
        and all(type(getattr(made, name)) is float for name in NUMBERS)
        and type(made.trading_paused) is bool
        and all(type(time) is datetime and time.tzinfo is UTC for time in times)
    )


class Later(datetime):
    """As pandas, pendulum and freezegun do it: what it calculates is of its own class again, or fails."""

    def utcoffset(self) -> timedelta:
        raise RuntimeError("not today")

    def astimezone(self, tz: Any = None) -> Any:
        return self

    def __repr__(self) -> str:
        raise ValueError


class BeyondPython(datetime):
    """pandas.Timestamp of the year 12000: the base class holds another year, which Python can have."""

    @property
    def year(self) -> int:
        return 12_000


class Nameless(enum.StrEnum):
    A = "a"

    def __str__(self) -> str:
        raise ValueError


class Half(float):
    def __float__(self) -> float:
        raise ValueError


BERLIN = ZoneInfo("Europe/Berlin")
SECOND_HOUR = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("trader_id", Nameless.A, "a"),
        ("trader_id", np.str_("a"), "a"),
        ("reason", Nameless.A, "a"),
        ("daily_pnl", Half(1.5), 1.5),
        ("daily_pnl", np.float64(1.5), 1.5),
        ("daily_pnl", np.float32(1.5), 1.5),
        ("daily_pnl", np.int64(7), 7.0),
        ("daily_pnl", np.array(1.5), 1.5),
        ("daily_pnl", Fraction(1, 3), 1 / 3),
        ("daily_pnl", Decimal("0.1"), 0.1),
        ("daily_pnl", Decimal(1) / 3, 1 / 3),
        ("daily_pnl", np.longdouble("0.1"), 0.1),
        ("daily_pnl", 2**53, 2.0**53),
        ("daily_pnl", -(2**60), -(2.0**60)),
        ("trading_paused", np.bool_(True), True),
        ("paused_until", SECOND_HOUR.astimezone(BERLIN), SECOND_HOUR),
        ("recorded_at", datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), SECOND_HOUR),
        ("recorded_at", Later(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), SECOND_HOUR),
        ("recorded_at", Later(2026, 10, 25, 1, 30, tzinfo=UTC), SECOND_HOUR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_classes_become_plain_ones(field: str, value: Any, expected: object) -> None:
    made = snapshot(**({"trader_id": "t1"} | {field: value}))
    assert getattr(made, field) == expected
    assert is_plain(made)
    assert decode(encode(made, 1, 1)).snapshot == made


class NaT(datetime):
    """pandas' "not a time" is a datetime too."""

    def __new__(cls) -> NaT:
        return super().__new__(cls, 1, 1, 1)

    def utcoffset(self) -> Any:
        raise ValueError("NaTType does not support utcoffset")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trader_id", b"t1"),
        ("paused_until", NaT()),
        ("recorded_at", NaT()),
        ("paused_until", BeyondPython(1972, 1, 1, tzinfo=UTC)),
        ("paused_until", np.datetime64("2026-01-01")),
        ("paused_until", datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))),
        ("trading_paused", np.int64(1)),
        ("trading_paused", np.array(True)),
        ("daily_pnl", np.bool_(True)),
        ("daily_pnl", np.array([1.5])),
        ("daily_pnl", np.timedelta64(1, "s")),
        ("daily_pnl", 1 + 0j),
        ("daily_pnl", 2**53 + 1),
        ("daily_pnl", np.int64(-(2**53) - 1)),
        ("daily_pnl", Decimal(2**53 + 1)),
        ("daily_pnl", Decimal("9007199254740992.5")),
        ("daily_pnl", Fraction(2**53 + 1)),
        ("daily_pnl", Decimal("1e-400")),
        ("daily_pnl", Decimal("sNaN")),
        ("daily_pnl", 10**5000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_change_silently_is_rejected(field: str, value: Any) -> None:
    with pytest.raises(InvalidSnapshot, match=f"^{field} "):
        snapshot(**({"trader_id": "t1"} | {field: value}))


def test_a_clock_that_a_test_replaced_gives_plain_times(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 5, 5, tzinfo=tz)

    monkeypatch.setattr(
        "risk_producer.contract.snapshot.datetime", Frozen
    )  # as freezegun does in every module
    made = snapshot()
    assert made.recorded_at == datetime(2026, 5, 5, tzinfo=UTC)
    assert is_plain(made)


def test_an_invalid_snapshot_is_counted_and_logged_whatever_the_caller_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("risk_producer.contract.rejected.monotonic", lambda: now)
    monkeypatch.setattr("risk_producer.contract.rejected._reported", {})
    before = invalid_total()
    for _ in range(5):
        with contextlib.suppress(Exception):
            snapshot("t1", paused_until=datetime(2026, 1, 1))  # noqa: DTZ001
    with contextlib.suppress(Exception):
        snapshot("t2", math.nan)
    assert invalid_total() == before + 6
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "A snapshot of trader 't1' was rejected and will not be stored",
        "A snapshot of trader 't2' was rejected and will not be stored",
    ]
    assert "paused_until must be a datetime with a time zone, got datetime.datetime(2026" in caplog.text
    now += 61
    with contextlib.suppress(Exception):
        snapshot("t1", math.nan)
    assert caplog.records[-1].getMessage().endswith("got nan (4 more since the last such line)")


def test_invalid_snapshots_of_many_threads_and_finalizers_are_all_counted() -> None:
    class InACycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            reject()

    def reject() -> None:
        with contextlib.suppress(InvalidSnapshot):
            snapshot("", 1)

    def work() -> None:
        for _ in range(300):
            InACycle()
            reject()
            invalid_total()

    before, thresholds = invalid_total(), gc.get_threshold()
    gc.set_threshold(5)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert invalid_total() == before + 4 * 300 * 2
