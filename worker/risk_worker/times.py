"""What a person writes for a time, a day or a length of time: read in one way by every command."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_UNIT: Final = r"(s|sec|secs|seconds?|m|min|mins|minutes?|h|hours?|d|days?|w|weeks?)"
_LENGTH: Final = re.compile(rf"(\d{{1,6}}) ?{_UNIT}", re.ASCII)
_CLOCK: Final = re.compile(r"(?:(today|yesterday) )?(\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)", re.ASCII)
_DAYS: Final = {"today": 0, "yesterday": 1}
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?( ?(Z|[+-]\d\d(:?\d\d)?))?", re.ASCII
)

LENGTHS: Final = "a length of time like 90s, 15m, 2h, 7d or 2w"
MOMENTS: Final = (
    "a time like '2026-01-31 14:05', '2026-01-31T14:05:00Z', 2026-01-31, 14:05, 'yesterday 14:05', today, "
    "now, '2h ago' or 2h"
)
DAYS: Final = "a day like 2026-01-31, today or yesterday"


def zone_of(name: str) -> tzinfo:
    """The time zone of that name in the IANA database, like Europe/Berlin. Raises ValueError."""
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # also for a path, and for a folder of zones
        raise ValueError(f"{name!r} is no time zone like UTC, Europe/Berlin or America/New_York") from None


def length_of(text: str) -> timedelta:
    """A length of time: 90s, 15m, 2 hours, 7d, 2w. Raises ValueError."""
    found = _LENGTH.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not {LENGTHS}")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2][0]])


def moment_of(text: str, *, now: datetime, zone: tzinfo = UTC) -> datetime:
    """A moment, in UTC. now: with a time zone. zone: of what names no zone itself. Raises ValueError."""
    try:
        return _moment_of(text, now, zone)
    except _Changed:
        raise
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not {MOMENTS}") from None


def _moment_of(text: str, now: datetime, zone: tzinfo) -> datetime:
    bare = " ".join(text.split())
    low = bare.lower()
    if low == "now":
        return now.astimezone(UTC)
    if low in _DAYS or _DATE.fullmatch(low):
        return start_of(day_of(low, now=now, zone=zone), zone)
    if (found := _CLOCK.fullmatch(low)) is not None:
        day = day_of(found[1] or "today", now=now, zone=zone)
        return _in_zone(f"{day.isoformat()} {found[2]}", zone)
    if _MOMENT.fullmatch(bare.upper()):
        return _in_zone(re.sub(r" (?=[Z+-])", "", bare.upper()), zone)
    return (now - length_of(low.removesuffix(" ago"))).astimezone(UTC)


def day_of(text: str, *, now: datetime, zone: tzinfo = UTC) -> date:
    """A day of the calendar in that zone. Raises ValueError."""
    low = text.strip().lower()
    try:
        if low in _DAYS:
            return now.astimezone(zone).date() - timedelta(days=_DAYS[low])
        if _DATE.fullmatch(low):
            return date.fromisoformat(low)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is not {DAYS}")


def start_of(day: date, zone: tzinfo) -> datetime:
    """The first moment of a day, in UTC; a day may have 23 or 25 hours. OverflowError in the year 1."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


class _Changed(ValueError):
    """A time that the clocks of a zone show twice, or never."""


def _in_zone(iso: str, zone: tzinfo) -> datetime:
    """A moment from a text in ISO form."""
    moment = datetime.fromisoformat(iso)
    if moment.tzinfo is not None:
        return moment.astimezone(UTC)
    first, second = (moment.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    what = "comes twice" if first.astimezone(zone).replace(tzinfo=None) == moment else "does not exist"
    raise _Changed(
        f"{iso!r} {what} in {zone}, where the clocks are changed; write it with its offset, like +02:00"
    )
