"""Whatever a trader puts into a snapshot, its fields are plain values or it is rejected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import msgspec
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
