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
_ENDS: Final = re.compile(r"([01]\d|2[0-3]|24(?=:00)):([0-5]\d)", re.ASCII)
_DAY: Final = timedelta(days=1)
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?( ?(Z|[+-]\d\d(:?\d\d)?))?", re.ASCII
)

LENGTHS: Final = "a length of time like 90s, 15m, 2h, 7d or 2w"
MOMENTS: Final = (
    "a time like '2026-01-31 14:05', '2026-01-31T14:05:00Z', 2026-01-31, 14:05, 'yesterday 14:05', today, "
    "now, '2h ago' or 2h"
)
DAYS: Final = "a day like 2026-01-31, today or yesterday"
ENDS: Final = "a time of the clock like 17:00; 24:00 is midnight"
MIDNIGHT: Final = time()
"""As the end of a day: that at its end, 24:00."""


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


def ends_of(text: str) -> time:
    """When days end, by the clock: 17:00, 24:00. Raises ValueError."""
    found = _ENDS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not {ENDS}")
    return time(int(found[1]) % 24, int(found[2]))


def moment_of(text: str, *, now: datetime, zone: tzinfo = UTC, ends: time = MIDNIGHT) -> datetime:
    """A moment, in UTC. now: with a time zone. zone: of what names no zone itself. Raises ValueError.

    A day alone is its beginning, which follows from `ends`; a day with a time is that of the calendar.
    """
    try:
        return _moment_of(text, now, zone, ends)
    except _Changed:
        raise
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not {MOMENTS}") from None


def _moment_of(text: str, now: datetime, zone: tzinfo, ends: time) -> datetime:
    bare = " ".join(text.split())
    low = bare.lower()
    if low == "now":
        return now.astimezone(UTC)
    if low in _DAYS or _DATE.fullmatch(low):
        return start_of(day_of(low, now=now, zone=zone, ends=ends), zone, ends)
    if (found := _CLOCK.fullmatch(low)) is not None:
        day = day_of(found[1] or "today", now=now, zone=zone)
        return _in_zone(f"{day.isoformat()} {found[2]}", zone)
    if _MOMENT.fullmatch(bare.upper()):
        return _in_zone(re.sub(r" (?=[Z+-])", "", bare.upper()), zone)
    return (now - length_of(low.removesuffix(" ago"))).astimezone(UTC)


def day_of(text: str, *, now: datetime, zone: tzinfo = UTC, ends: time = MIDNIGHT) -> date:
    """A day in that zone; which one is today follows from when days end. Raises ValueError."""
    low = text.strip().lower()
    try:
        if low in _DAYS:
            return date_of(now, zone, ends) - timedelta(days=_DAYS[low])
        if _DATE.fullmatch(low):
            return date.fromisoformat(low)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is not {DAYS}")


def date_of(moment: datetime, zone: tzinfo, ends: time = MIDNIGHT) -> date:
    """The day that a moment belongs to, named by the date of its end. OverflowError as start_of()."""
    day = moment.astimezone(zone).date()
    while moment >= start_of(day + _DAY, zone, ends):
        day += _DAY
    while moment < start_of(day, zone, ends):
        day -= _DAY
    return day


def start_of(day: date, zone: tzinfo, ends: time = MIDNIGHT) -> datetime:
    """The first moment of a day, in UTC, which is the end of the day before.

    A day ends at the first moment at which the clocks show `ends`, or a later time where they never do. Each
    moment is of one day, and a day may have 23 or 25 hours. OverflowError in the year 1.
    """
    last = day if ends == MIDNIGHT else day - _DAY
    local = datetime.combine(last, ends)
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first
    before, after = second, first  # the clocks were put forward between the two
    while after - before > timedelta.resolution:
        between = before + (after - before) // 2
        if between.astimezone(zone).replace(tzinfo=None) < local:
            before = between
        else:
            after = between
    return after


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
