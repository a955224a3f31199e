"""When a drain ends, so that RQ and the other workers see the worker again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final


class TimeSlice:
    """The time slice of the drain that is under way. The worker's supervisor looks, the drain asks.

    As long as RQ's Redis does not answer there is no look, and the slice does not end: RQ needs it then.
    """

    LENGTH_S: float = 20.0
    LOOKS: Final = 2
    """The shares, or the partitions, are others when they were seen so often in succession."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._division: tuple[int, tuple[int, ...]] = (0, ())
        self._began = 0.0
        self._differed = 0
        self._over = False

    def begin(self, shares: int, partitions: Sequence[int]) -> None:
        """A drain of one of so many shares of these partitions begins."""
        self._division, self._began = (shares, tuple(partitions)), self._clock()
        self._differed, self._over = 0, False

    def look(self, shares: int, partitions: Sequence[int], *, waits: bool = False) -> None:
        """RQ's Redis answers: there should be so many shares now, of these partitions.

        waits: whether something in hand waits for its COMMIT, so that a new time slice would be of no use.
        """
        self._differed = self._differed + 1 if (shares, tuple(partitions)) != self._division else 0
        if self._differed >= self.LOOKS or (not waits and self._clock() - self._began >= self.LENGTH_S):
            self.end()

    def end(self) -> None:
        """The drain ends after what it has in hand."""
        self._over = True

    def is_over(self) -> bool:
        """Whether it is over."""
        return self._over
