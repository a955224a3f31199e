"""Partitions that Redis answers with an error for: left out, tried alone, named once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

log = logging.getLogger("riskstream.outages")

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 3.0
"""The first and the longest wait before a partition in an outage is tried again."""


@dataclass(slots=True)
class _Outage:
    wait_s: float
    due: float


class PartitionOutages:
    """Which partitions are in an outage of their own, since when, and when each is tried again.

    A process keeps it over its time slices. Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._outages: dict[int, _Outage] = {}
        self._began = 0.0  # the first of those that there are
        self._named: set[int] = set()  # all that had one since then

    def __contains__(self, partition: int) -> bool:
        return partition in self._outages

    def __bool__(self) -> bool:
        return bool(self._outages)

    def is_due(self, partition: int) -> bool:
        """Whether a partition in an outage is to be tried now."""
        return self._clock() >= self._outages[partition].due

    def next_due_s(self) -> float:
        """Seconds until the next one is to be tried; infinite where there is none."""
        due = min((each.due for each in self._outages.values()), default=math.inf)
        return max(0.0, due - self._clock())

    def record_failure(self, partition: int, error: Exception, *, alone: bool) -> None:
        """Redis answered with an error. alone: whether the worker has no other partition that goes on."""
        now = self._clock()
        outage = self._outages.get(partition)
        if outage is not None:
            outage.wait_s = min(2 * outage.wait_s, LONGEST_WAIT_S)
            outage.due = now + outage.wait_s
            return
        if not self._outages:
            self._began = now
            self._named.clear()
            log.critical(
                "Not storing partition %d: Redis answers with an error: %s. Its snapshots wait in the stream "
                "and it is tried again%s.",
                partition,
                error,
                "" if alone else "; the other partitions go on",
            )
        self._outages[partition] = _Outage(FIRST_WAIT_S, now + FIRST_WAIT_S)
        self._named.add(partition)

    def record_success(self, partition: int) -> None:
        """Redis answers for a partition; where it was the last one, that is logged."""
        outage = self._outages.pop(partition, None)
        if outage is not None and not self._outages:
            log.warning(
                "Storing all partitions again: partition %s answers after %.1f s.",
                ", ".join(map(str, sorted(self._named))),
                self._clock() - self._began,
            )

    def keep(self, partitions: Iterable[int]) -> None:
        """Forget the others: another worker has them now."""
        for partition in self._outages.keys() - set(partitions):
            del self._outages[partition]
