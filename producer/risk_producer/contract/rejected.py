"""Invalid snapshots: the library itself counts and logs them, whatever the caller does with the exception.

A framework may swallow InvalidSnapshot, and the rejected snapshot may be the one with the pause. So each is
counted in this process (risk_producer_invalid_total), and each trader's first in a minute is a log line.

No locks: the call may come from a finalizer or a signal handler that interrupted another one.
"""

from __future__ import annotations

import logging
import os
from itertools import count
from time import monotonic
from typing import Final

log = logging.getLogger("riskstream.producer")

REPORT_EVERY_S: Final = 60.0
TRADERS_MAX: Final = 1_000
"""Traders whose last log line is remembered."""


class _Counter:
    """Counts without a lock: advancing itertools.count is one step of the interpreter."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._reads = 0
        self.add = self._numbers.__next__

    def value(self) -> int:
        """How often add() was called. Reading advances the numbers too, and is taken off again."""
        self._reads += 1
        return next(self._numbers) - self._reads


_total = _Counter()
_reported: dict[str, tuple[float, int]] = {}
"""trader_id -> when its last log line was written (monotonic, in seconds), and invalid snapshots since."""


def invalid_total() -> int:
    """Snapshots rejected in this process because a field breaks a rule."""
    return _total.value()


def record_invalid(trader_id: str, error: Exception, now: float | None = None) -> None:
    """Count an invalid snapshot, and log it unless this trader had a line within the last minute.

    now: monotonic, in seconds. trader_id: an empty text, where it is what breaks the rule.
    """
    _total.add()
    now = monotonic() if now is None else now
    last, since = _reported.get(trader_id, (now - REPORT_EVERY_S, 0))
    if now - last < REPORT_EVERY_S:
        _reported[trader_id] = (last, since + 1)
        return
    if len(_reported) >= TRADERS_MAX:
        _reported.clear()
    _reported[trader_id] = (now, 0)
    log.warning(
        "A snapshot of trader %r was rejected and will not be stored: %s%s",
        trader_id,
        error,
        f" ({since} more since the last such line)" if since else "",
    )


def _reset_in_child() -> None:
    """After a fork, in the child: what was counted is the parent's."""
    global _total
    _total = _Counter()
    _reported.clear()


os.register_at_fork(after_in_child=_reset_in_child)
