"""Whatever a trader puts into a snapshot, its fields are plain values or it is rejected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_producer import InvalidSnapshot, RiskSnapshot
from risk_producer.contract.wire import decode, encode
from tests.support.factory import snapshot
from tests.unit.risk_producer.contract.test_snapshot import BERLIN, is_plain

METHODS = (
    *(
        "__str__",
        "__repr__",
        "__eq__",
        "__hash__",
        "__float__",
        "__index__",
        "__int__",
        "__bool__",
        "__len__",
    ),
    *("__lt__", "__le__", "__sub__", "__abs__", "__format__", "__class__", "__getattribute__"),
    *("utcoffset", "astimezone", "tzinfo", "year", "ndim", "encode", "isascii", "as_integer_ratio"),
)
BASES: list[tuple[type, tuple[Any, ...]]] = [
    (object, ()),
    (str, ("text",)),
    (str, ("\ud800",)),
    (float, (1.5,)),
    (float, ("nan",)),
    (int, (7,)),
    (int, (2**53 + 1,)),
    (Decimal, ("0.1",)),
    (datetime, (2026, 1, 1)),
    (datetime, (2026, 1, 1, 0, 0, 0, 0, UTC)),
    (datetime, (2026, 10, 25, 2, 30, 0, 0, BERLIN)),
]


class Unforeseen(Exception):
    pass


@st.composite
def hostile(draw: st.DrawFn) -> object:
    """A value of a class of which some methods fail, or answer nonsense."""
    base, arguments = draw(st.sampled_from(BASES))
    broken = draw(st.sets(st.sampled_from(METHODS), max_size=6))
    answer = draw(
        st.sampled_from(
            [ValueError, TypeError, KeyError, AttributeError, MemoryError, RecursionError, StopIteration]
        )
        | st.sampled_from([Unforeseen, None, True, 1, 2.5, "x", "\ud800", NotImplemented, str, object()])
    )

    def respond(*_: object, **__: object) -> object:
        if isinstance(answer, type) and issubclass(answer, Exception):
            raise answer
        return answer

    overridden: dict[str, Any] = {
        name: property(respond) if name in ("__class__", "tzinfo", "year") else respond for name in broken
    }
    return base.__new__(type("Hostile", (base,), overridden), *arguments)


class HostileZone(tzinfo):
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def utcoffset(self, _: datetime | None) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


zones = st.sampled_from(
    [None, 5, timedelta(days=3), timedelta(hours=5), timedelta(microseconds=1), Unforeseen(), ValueError()]
).map(HostileZone)
values = (
    hostile()
    | st.builds(lambda zone: datetime(2026, 1, 1, tzinfo=zone), zones)
    | st.datetimes(timezones=st.sampled_from([None, UTC, BERLIN, timezone(timedelta(hours=14))]))
    | st.floats()
    | st.integers()
    | st.decimals()
    | st.fractions()
    | st.text(max_size=300)
    | st.binary(max_size=5)
    | st.booleans()
    | st.none()
)


@given(fields=st.dictionaries(st.sampled_from(RiskSnapshot.__struct_fields__), values))
def test_whatever_comes_in_is_plain_or_rejected(fields: dict[str, Any]) -> None:
    try:
        made = snapshot(**({"trader_id": "t1"} | fields))
    except InvalidSnapshot as error:
        str(error).encode()
        return
    assert is_plain(made)
    wire = decode(encode(made, 1, 1))
    reset = made.last_reset_time or made.recorded_at
    assert wire.snapshot == msgspec.structs.replace(made, last_reset_time=reset)


def slow(fields: dict[str, Any]) -> RiskSnapshot:
    """A snapshot of these fields by the full checks alone. Raises InvalidSnapshot."""
    made = snapshot("t1")
    for name, value in fields.items():
        msgspec.structs.force_setattr(made, name, value)
    made._keep_floats()
    made._make_plain()
    return made


def outcome(make: Callable[[dict[str, Any]], RiskSnapshot], fields: dict[str, Any]) -> object:
    """The classes and values of what was made, or the message of the refusal."""
    try:
        made = make(fields)
    except InvalidSnapshot as error:
        return str(error)
    return [(type(value), repr(value)) for value in msgspec.structs.astuple(made)]


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Whole(int):
    pass


class Time(datetime):
    pass


ZONES = (
    None,
    UTC,
    timezone(timedelta(0)),
    timezone(timedelta(hours=14)),
    timezone(timedelta(hours=-5)),
    BERLIN,
)
TEXTS = [
    letter * size + last
    for size in (0, 1, 254, 255, 256, 1023, 1024, 1025)
    for letter in "aß"
    for last in ("", "\0", "\ud800")
]
NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -0.0, 1.5]
TIMES = [
    datetime(year, month, day, hour, tzinfo=zone)
    for year, month, day, hour in [
        *((1, 1, 1, 0), (1999, 12, 31, 23), (2000, 1, 1, 0)),
        *((2199, 12, 31, 23), (2200, 1, 1, 0), (9999, 12, 31, 23)),
    ]
    for zone in ZONES
]
TEXT_EDGES = [*TEXTS, *map(Text, TEXTS), None, 7, b"t1"]
NUMBER_EDGES = [*NUMBERS, *map(Number, NUMBERS), Whole(7), 7, 2**53 + 1, True, None, "1.5", Decimal("0.1")]
TIME_EDGES = [*TIMES, *(Time.combine(at.date(), at.timetz()) for at in TIMES), None, "2026-01-01", 0]
EDGES: dict[str, list[Any]] = {
    **dict.fromkeys(("trader_id", "trace_id", "reason"), TEXT_EDGES),
    **dict.fromkeys(("daily_pnl", "drawdown_pct", "current_equity", "peak_equity"), NUMBER_EDGES),
    **dict.fromkeys(("paused_until", "last_reset_time", "recorded_at"), TIME_EDGES),
    "trading_paused": [True, False, np.True_, 0, 1, None, "True"],
}
anything = st.one_of(
    *(st.sampled_from(each) for each in (TEXT_EDGES, NUMBER_EDGES, TIME_EDGES)),
    *(st.floats(), st.integers(), st.text(max_size=5), st.datetimes(timezones=st.sampled_from(ZONES))),
)


def agree(**fields: Any) -> None:
    """That the quick way makes what the full checks make, or both refuse it with the same message."""
    sound = {"trader_id": "t1", "recorded_at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert outcome(lambda each: snapshot(**each), sound | fields) == outcome(slow, sound | fields)


@pytest.mark.parametrize("field", EDGES)
def test_the_quick_way_makes_what_the_full_checks_make(field: str) -> None:
    """It accepts, and never refuses (decision 0046)."""
    for value in EDGES[field]:
        agree(**{field: value})


@given(fields=st.dictionaries(st.sampled_from(sorted(EDGES)), anything, max_size=3))
def test_they_agree_on_whatever_comes_in(fields: dict[str, Any]) -> None:
    agree(**fields)
