"""How sure an answer is: as of when, whether it may still grow, and what could not be asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any

import msgspec


class Certainty(msgspec.Struct, frozen=True):
    """What is known about an answer. It has all that was stored at asked_at, as far as it was asked for."""

    asked_at: datetime
    """By the clock of the database."""
    final: bool
    """Whether nothing can be added to it: it is about what was known at a time that is sealed."""
    sealed_until: datetime | None = None
    """How far history is sealed, by the time of storing; None: not at all, or it could not be asked."""
    removed_before: date | None = None
    """Retention has removed what was recorded before this UTC day; None: nothing, or it was not asked."""
    waiting: int | None = None
    """Accepted snapshots of all traders that waited in Redis just before; None: they were not asked for."""
    not_asked: tuple[str, ...] = ()
    """What could not be asked, and why: a sentence each."""


def sentence(certainty: Certainty, values: Mapping[str, Any], zone: tzinfo = UTC) -> str:
    """For a person. values: of the question."""
    parts = [f"As of {_shown(certainty.asked_at, zone)}."]
    sealed = certainty.sealed_until
    if certainty.final:
        parts.append(f"Final: history is sealed until {_shown(sealed, zone)}.")
    elif "known_at" in values:
        until = "not sealed" if sealed is None else f"sealed until {_shown(sealed, zone)}"
        late = "" if values["known_at"] else ", and snapshots that come late are taken in without --known-at"
        parts.append(f"It may still grow: history is {until}{late}.")
    if (asked_for := values.get("time")) is not None and asked_for > certainty.asked_at:
        parts.append(f"{_shown(asked_for, zone)} has not come yet.")
    match certainty.waiting:
        case None:
            pass
        case 0:
            parts.append("Nothing waits in Redis.")
        case 1:
            parts.append("1 accepted snapshot waits in Redis and may be missing here.")
        case count:
            parts.append(f"{count:,} accepted snapshots wait in Redis and may be missing here.")
    parts += certainty.not_asked
    if certainty.removed_before is not None and _reaches(values, certainty.removed_before):
        parts.append(
            f"What was recorded before {certainty.removed_before.isoformat()} (UTC) has been removed by "
            "retention."
        )
    return " ".join(parts)


def _reaches(values: Mapping[str, Any], day: date) -> bool:
    """Whether a question is about times before a UTC day."""
    first = datetime.combine(day, time(), UTC)
    return any(values[name] is None or values[name] < first for name in ("since", "time") if name in values)


def _shown(moment: datetime | None, zone: tzinfo) -> str:
    if moment is None:
        return "-"
    with suppress(OverflowError):  # at the ends of Python's calendar
        moment = moment.astimezone(zone)
    return moment.isoformat(" ", "milliseconds")
