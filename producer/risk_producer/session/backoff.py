"""Backoff: why something cannot be sent just now, and how long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Iterator

import backoff

_WAIT_S = 0.05
_WAIT_MAX_S = 2.0


class Backoff:
    """From the first failure until all is well again: then it is dropped."""

    def __init__(self) -> None:
        self.reason = ""
        """What the last failure was."""
        self._waits_s: Iterator[float] = backoff.expo(factor=_WAIT_S, max_value=_WAIT_MAX_S)
        next(self._waits_s)  # the library's generators begin with nothing

    def record_failure(self, reason: str) -> float:
        """A call failed. Returns the seconds to wait: exponential, jittered, so that many do not stampede."""
        self.reason = reason
        longest_s = next(self._waits_s, _WAIT_MAX_S)  # an exception inside would have ended it
        shortest_s = longest_s / 2  # not 0, as a trader's process has other things to do
        return shortest_s + float(backoff.full_jitter(longest_s - shortest_s))
