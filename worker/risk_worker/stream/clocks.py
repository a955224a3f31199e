"""Clocks that differ are worth a warning, and nothing else: what is a snapshot depends on the bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

log = logging.getLogger("riskstream.clocks")

APART_MAX: Final = timedelta(days=1)
REPEAT_EVERY_S: Final = 60.0
_DAY: Final = timedelta(days=1)
KEPT_MAX: Final = 10_000
SHOWN_MAX: Final = 10
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_repeat_at: Final[dict[str, float]] = {}
"""trader_id -> from when on this process warns of it again; monotonic."""


class Clocks:
    """Compares the time at which traders took their snapshots with Redis' time."""

    def compare(self, entry_id: str, recorded_at: Mapping[str, datetime]) -> None:
        """Warn, once a trader and minute, where recorded_at is more than a day off Redis' time.

        entry_id: of the stream, whose first part is that time in ms. recorded_at: by trader, of its newest.
        """
        try:
            redis_time = _EPOCH + timedelta(milliseconds=int(entry_id.partition("-")[0]))
            earliest, latest = redis_time - APART_MAX, redis_time + APART_MAX
        except (OverflowError, ValueError):
            return
        apart = {
            trader: at - redis_time for trader, at in recorded_at.items() if not earliest <= at <= latest
        }
        now = monotonic()
        new = {trader: by for trader, by in apart.items() if now >= _repeat_at.get(trader, 0.0)}
        if new:
            if len(_repeat_at) > KEPT_MAX:
                _repeat_at.clear()
            _repeat_at.update(dict.fromkeys(new, now + REPEAT_EVERY_S))
            shown = [
                f"{trader!r} {abs(by / _DAY):.1f} days {'ahead' if by > timedelta(0) else 'behind'}"
                for trader, by in list(new.items())[:SHOWN_MAX]
            ]
            log.warning(
                "The snapshots of %d traders were recorded more than a day off Redis' time: %s. They are "
                "stored; if they are no records of the past, check the clocks of these traders and of Redis",
                len(new),
                ", ".join(shown) + (", ..." if len(new) > SHOWN_MAX else ""),
            )
