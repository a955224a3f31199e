"""Pace: how quickly entries come, by the last read."""

from __future__ import annotations


class Pace:
    """Times are monotonic, in seconds."""

    __slots__ = ("_at", "_count")

    def __init__(self) -> None:
        self._count = 0
        self._at = 0.0

    def record(self, count: int, now: float) -> None:
        """A read has ended, with so many entries."""
        self._count, self._at = count, now

    def brings(self, within_s: float, now: float) -> bool:
        """Whether at the pace of the last read another entry comes within this time."""
        return self._count * within_s >= now - self._at
