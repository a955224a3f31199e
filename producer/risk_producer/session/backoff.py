"""Backoff: an outage of Redis, its reason, and how long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Iterator

import backoff

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
        self._waits_s: Iterator[float] = iter(())

    @property
    def active(self) -> bool:
        """Whether the last call failed."""
        return self.reason is not None

    def record_failure(self, reason: str, now: float) -> float:
        """A call failed. Returns the seconds to wait: exponential, jittered, so that many do not stampede."""
        if self.reason is None:
            self.count += 1
            self._began = now
            self._waits_s = backoff.expo(factor=_WAIT_S, max_value=_WAIT_MAX_S)
            next(self._waits_s)  # the library's generators begin with nothing
        self.reason = reason
        longest_s = next(self._waits_s, _WAIT_MAX_S)  # an exception inside would have ended it
        shortest_s = longest_s / 2  # not 0, as a trader's process has other things to do
        return shortest_s + float(backoff.full_jitter(longest_s - shortest_s))

    def record_success(self, now: float) -> float:
        """A call succeeded. Returns the seconds that the outage took."""
        self.reason = None
        return now - self._began
