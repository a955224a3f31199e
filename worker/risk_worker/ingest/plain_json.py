"""The quick way to read a line of JSON: accepts what is plain in all respects, and says nothing of the rest.

A line goes through msgspec's decoder in one call, where the slow way (records.py) makes a Python object of
each value. The decoder is as strict about what JSON is, but it takes the last of several values of a key,
rounds a time to microseconds where the slow way cuts it, and takes a number that a float cannot hold. Such
lines are found by what the decoded values and the line have to agree on, and are left to the slow way, as
are all that the decoder refuses. So the slow way alone decides what is wrong, and words it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

_Time = Annotated[datetime, msgspec.Meta(tz=True)]

_EXACT_BELOW: Final = 2.0**53
"""A whole number below it is a float, and what the decoder makes of any number is the nearest one."""

_FINER_THAN_MICROSECONDS: Final = re.compile(rb":[0-9]{2}\.[0-9]{7}")
_ESCAPED_COMMA: Final = rb"\u002"
"""How an escaped comma begins; four other characters begin so too."""


class PlainLine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The values of one line. UNSET: there is no such key; None: it is null."""

    trader_id: str
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool | UnsetType | None = UNSET
    paused_until: _Time | UnsetType | None = UNSET
    last_reset_time: _Time | UnsetType | None = UNSET
    recorded_at: _Time | UnsetType | None = UNSET
    trace_id: str | UnsetType | None = UNSET
    reason: str | UnsetType | None = UNSET


_ALWAYS: Final = sum(field.required for field in msgspec.structs.fields(PlainLine))
_decode: Final = msgspec.json.Decoder(PlainLine).decode


def plain_line(line: bytes) -> PlainLine | None:
    """What the slow way would read too, value for value; None: it has to be asked."""
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    a, b, c, d = found.daily_pnl, found.drawdown_pct, found.current_equity, found.peak_equity
    bound = _EXACT_BELOW
    if not (-bound < a < bound and -bound < b < bound and -bound < c < bound and -bound < d < bound):
        return None
    if not (a and b and c and d) and not _zeros_are_zeros(found, line):
        return None
    # A comma is inside of a text, or stands between two keys. A key that is there again has one
    # more, whatever its first value was.
    commas = line.count(b",") - found.trader_id.count(",")
    keys = _ALWAYS
    if found.trading_paused is not UNSET:
        keys += 1
    if found.paused_until is not UNSET:
        keys += 1
    if found.last_reset_time is not UNSET:
        keys += 1
    if found.recorded_at is not UNSET:
        keys += 1
    if (trace_id := found.trace_id) is not UNSET:
        keys += 1
        if trace_id:
            commas -= trace_id.count(",")
    if (reason := found.reason) is not UNSET:
        keys += 1
        if reason:
            commas -= reason.count(",")
    if commas != keys - 1 or _ESCAPED_COMMA in line or _FINER_THAN_MICROSECONDS.search(line):
        return None
    return found


def _zeros_are_zeros(found: PlainLine, line: bytes) -> bool:
    """Whether each number that is 0 is written as one: no sign, nothing that was too small for a float."""
    return all(zero.search(line) for name, zero in _ZERO.items() if not getattr(found, name))


_ZERO: Final = {
    name: re.compile(rb'"%s"[ \t]*:[ \t]*0(?:\.0+)?[ \t]*[,}]' % name.encode())
    for name in ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity")
}
