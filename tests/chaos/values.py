"""Values as traders' programs have them: of other libraries, which pass for plain ones, and wrong ones."""

from __future__ import annotations

import random
from datetime import UTC, datetime, tzinfo
from typing import Any, Final


class Timestamp(datetime):
    """As pandas' one: a subclass that an encoder may not know."""


class Text(str):
    """As numpy's str_: likewise."""

    __slots__ = ()


class Number(float):
    """As numpy's float64: likewise."""


class NotATime(datetime):
    """As pandas' NaT: it passes for a datetime and is none."""

    year = month = day = hour = minute = second = microsecond = property(lambda _self: float("nan"))

    def utcoffset(self) -> None:
        return None

    def astimezone(self, tz: tzinfo | None = None) -> NotATime:
        raise ValueError("not a time")


def disguise(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The same values in other types; they have to be stored as they are."""
    return {name: _other(value) if chance.random() < 0.5 else value for name, value in fields.items()}


def _other(value: Any) -> Any:
    if type(value) is str:
        return Text(value)
    if type(value) is float:
        return Number(value)
    if type(value) is datetime:
        return Timestamp.fromtimestamp(value.timestamp(), value.tzinfo).replace(microsecond=value.microsecond)
    return value


_NO_TIME: Final = NotATime(2026, 1, 1, tzinfo=UTC)
_WRONG: Final = (
    ("daily_pnl", float("nan")),
    ("current_equity", Number("inf")),
    ("drawdown_pct", "1.0"),
    ("peak_equity", None),
    ("trader_id", ""),
    ("trader_id", 7),
    ("reason", "x" * 1025),
    ("reason", Text("\0")),
    ("trace_id", "\ud800"),
    ("recorded_at", datetime(2026, 1, 1)),  # noqa: DTZ001
    ("recorded_at", _NO_TIME),
    ("paused_until", _NO_TIME),
    ("trading_paused", "no"),
)


def spoil(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """With a value that has to be refused."""
    name, value = chance.choice(_WRONG)
    return {**fields, name: value}
