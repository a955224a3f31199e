"""Backoff: an outage of Redis, its reason, and how long to wait before the next attempt."""

from __future__ import annotations

import random

_WAIT_S = 0.05
_WAIT_MAX_S = 2.0


class Backoff:
    """Takes the time as an argument, and writes no log: its owner does."""

    def __init__(self) -> None:
        self.count = 0
        """Outages so far."""
        self.reason: str | None = None
        """Why snapshots cannot be sent just now; None: they can, as far as is known."""
        self._began = 0.0
        self._wait_s = 0.0

    @property
    def active(self) -> bool:
        """Whether the last call failed."""
        return self.reason is not None

    def record_failure(self, reason: str, now: float) -> float:
        """A call failed. Returns the seconds to wait: exponential, jittered, so that many do not stampede."""
        if self.reason is None:
            self.count += 1
            self._began = now
            self._wait_s = _WAIT_S
        self.reason = reason
        wait_s = random.uniform(self._wait_s / 2, self._wait_s)
        self._wait_s = min(self._wait_s * 2, _WAIT_MAX_S)
        return wait_s

    def record_success(self, now: float) -> float:
        """A call succeeded. Returns the seconds that the outage took."""
        self.reason = None
        return now - self._began
