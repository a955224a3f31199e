"""Scales: where a value stands between two ends, and which values get a mark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from math import ceil, floor, log10
from typing import Final

from risk_worker.picture.figures import local

_LARGEST: Final = 4e307
"""Beyond it a value stands at the end of its scale, so that a difference of two is still a float."""
_FLAT: Final = 1e-9
"""What differs by less than this part of itself is drawn as a straight line."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The values from low to high, and the marks between them."""

    low: float
    high: float
    marks: tuple[float, ...]
    step: float
    """Between two marks."""

    def at(self, value: float) -> float:
        """0 at low, 1 at high; what is beyond them is at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale(low: float, high: float, *, marks: int = 4, margin: float = 0.06) -> Scale:
    """Of values between the two. marks: how many, about. margin: what is left free at both ends."""
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    most = max(abs(low), abs(high))
    if high - low <= max(most * _FLAT, _FLAT):
        room = max(most * 1e-3, 1.0)
        low, high = low - room, high + room
    room = (high - low) * margin
    low, high = low - room, high + room
    return _marked(low, high, _step((high - low) / marks, *_NEAREST))


def scale_from_zero(most: float, *, marks: int = 2) -> Scale:
    """From 0 to what a reader can count in, most or a little beyond."""
    high = min(max(most, _FLAT), _LARGEST)
    step = _step(high / marks, *_ABOVE)
    return _marked(0.0, ceil(high / step - 1e-9) * step, step)


def _marked(low: float, high: float, step: float) -> Scale:
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return Scale(low, high, tuple(dict.fromkeys(number * step for number in range(first, last + 1))), step)


_ABOVE: Final = (1.0, 2.0, 5.0)
_NEAREST: Final = (2**0.5, 10**0.5, 50**0.5)


def _step(wanted: float, *up_to: float) -> float:
    """1, 2, 5 or 10 times a power of ten. up_to: for which wanted, within 1 to 10, it is 1, 2 and 5."""
    power = 10.0 ** floor(log10(wanted))
    found = zip((1, 2, 5), up_to, strict=True)
    return next((step for step, most in found if wanted <= most * power * (1 + 1e-9)), 10) * power


# Times.

_SECONDS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1_800),
    *(3_600, 7_200, 10_800, 14_400, 21_600, 43_200),
)
"""Lengths that divide a day."""
_DAYS: Final = (1, 2, 7, 14)
_MONTHS: Final = (1, 3, 6, 12, 24, 60, 120, 240, 600, 1_200)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A time on an axis."""

    at: datetime
    label: str


def times(since: datetime, until: datetime, zone: tzinfo, *, marks: int = 8) -> tuple[Mark, ...]:
    """Round times of a clock in that zone, so many at the most."""
    span = (until - since).total_seconds()
    for seconds in _SECONDS:
        if span / seconds <= marks:
            form = "%H:%M:%S" if seconds < 60 else "%H:%M"
            return tuple(_clock_marks(since, until, zone, seconds, form))
    for days in _DAYS:
        if span / days <= marks * 86_400:
            return tuple(_calendar_marks(since, until, zone, _each_day(since, until, zone, days), "%-d %b"))
    months = next((each for each in _MONTHS if span / each <= marks * 30.4 * 86_400), _MONTHS[-1])
    form = "%b %Y" if months < 12 else "%Y"
    return tuple(_calendar_marks(since, until, zone, _each_month(since, until, zone, months), form))


def _clock_marks(since: datetime, until: datetime, zone: tzinfo, seconds: int, form: str) -> Iterator[Mark]:
    length = timedelta(seconds=seconds)
    for day in _each_day(since, until, zone, 1):
        midnight = datetime.combine(day, time())
        start = max(midnight, local(since, zone).replace(tzinfo=None) - length)
        for number in range((start - midnight) // length, _DAY // length):
            shown = midnight + number * length
            at = shown.replace(tzinfo=zone).astimezone(UTC)
            if at > until:
                break
            if at >= since and at.astimezone(zone).replace(tzinfo=None) == shown:  # the clock shows it
                yield Mark(at, f"{shown:%-d %b}" if number == 0 and at > since else shown.strftime(form))


def _calendar_marks(
    since: datetime, until: datetime, zone: tzinfo, days: Iterator[date], form: str
) -> Iterator[Mark]:
    for day in days:
        at = datetime.combine(day, time(), zone).astimezone(UTC)
        if since <= at <= until:
            yield Mark(at, day.strftime(form))


def _each_day(since: datetime, until: datetime, zone: tzinfo, days: int) -> Iterator[date]:
    first, last = local(since, zone).date().toordinal(), local(until, zone).date().toordinal()
    first += -(first - 1) % days if days > 1 else 0  # weeks begin on Monday
    return (date.fromordinal(number) for number in range(first, last + 1, days))


def _each_month(since: datetime, until: datetime, zone: tzinfo, months: int) -> Iterator[date]:
    first, last = (each.year * 12 + each.month - 1 for each in (local(since, zone), local(until, zone)))
    return (
        date(number // 12, number % 12 + 1, 1)
        for number in range(ceil(first / months) * months, last + 1, months)
    )
