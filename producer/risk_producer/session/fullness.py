"""When streams are full, for the log: a line when it begins, and one when it is over."""

from __future__ import annotations

QUIET_S = 5.0
"""A stream that is full again within this time has been full all the while: where as much comes as is
stored, it is full and not full many times a second."""


class Fullness:
    """Takes the time as an argument, and writes no log: its owner does."""

    __slots__ = ("_full_at", "_rejected", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._full_at = 0.0
        self._rejected = 0

    def look(self, full: bool, now: float, *, cap: int, rejected: int) -> str | None:
        """What to log, if anything.

        full: whether a stream is, now (monotonic). cap: entries that each of them may hold. rejected: how
        many snapshots were, so far.
        """
        if full:
            self._full_at = now
            if self._since is not None:
                return None
            self._since = now
            return (
                f"Redis takes no snapshot: a stream is full (its cap is {cap:,} entries). Snapshots wait in "
                "the producer's buffer, and are rejected when that is full: is a worker running?"
            )
        if self._since is None:
            self._rejected = rejected  # what is rejected between this look and a full one belongs to that
            return None
        if now - self._full_at < QUIET_S:
            return None
        return self.end(rejected)

    def end(self, rejected: int) -> str | None:
        """What to log of a time that is over, or is not watched any more."""
        if self._since is None:
            return None
        took_s, self._since = self._full_at - self._since, None
        count, self._rejected = rejected - self._rejected, rejected
        return f"The streams were full for {took_s:.1f} s: {count:,} snapshots were rejected meanwhile"
