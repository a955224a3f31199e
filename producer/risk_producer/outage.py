"""An outage of Redis, as the trader's log tells it: one line when it begins, one when it ends."""

from __future__ import annotations

import logging
import random
from time import monotonic

log = logging.getLogger("riskstream.producer")

_WAIT_S = 0.05
_WAIT_MAX_S = 2.0


class Outage:
    """Whether Redis is away, since when, why, and how long to wait before the next try."""

    def __init__(self) -> None:
        self.count = 0
        self.reason: str | None = None
        """Why Redis cannot be used just now; None: it can, as far as is known."""
        self._began = 0.0
        self._wait_s = 0.0

    @property
    def under_way(self) -> bool:
        return self.reason is not None

    def goes_on(self, error: Exception) -> float:
        """A call failed. Returns the seconds to wait: exponential, jittered, so that many do not stampede."""
        if self.reason is None:
            self.count += 1
            self._began = monotonic()
            self._wait_s = _WAIT_S
            log.critical("Redis cannot be used, snapshots stay in memory: %s", error)
        self.reason = str(error)
        wait_s = random.uniform(self._wait_s / 2, self._wait_s)
        self._wait_s = min(self._wait_s * 2, _WAIT_MAX_S)
        return wait_s

    def ends(self) -> None:
        """A call succeeded."""
        if self.reason is not None:
            self.reason = None
            log.warning("Redis can be used again after %.1f s", monotonic() - self._began)
