"""Partitions that Redis does not serve while it serves others: left out, tried alone, named once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_worker.stream.bindings import OtherDatabase

log = logging.getLogger("riskstream.outages")

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 0.5
"""The first and the longest wait before a partition in an outage is tried again."""


@dataclass(slots=True)
class _Outage:
    wait_s: float
    due: float


class PartitionOutages:
    """Which partitions are in an outage of their own, since when, and when each is tried again.

    A process keeps it over its time slices. Partitions are numbers of streams, see Keyspace. Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.keyspace = NO_NAMESPACE
        """For their names."""
        self._clock = clock
        self._outages: dict[int, _Outage] = {}
        self._began = 0.0  # the first of those that there are
        self._named: set[int] = set()  # all that had one since then

    def __contains__(self, partition: int) -> bool:
        return partition in self._outages

    def __bool__(self) -> bool:
        return bool(self._outages)

    def is_due(self, partition: int) -> bool:
        """Whether a partition is to be asked now: it is in no outage, or is to be tried again."""
        outage = self._outages.get(partition)
        return outage is None or self._clock() >= outage.due

    def next_due_s(self) -> float:
        """Seconds until the next one is to be tried; infinite where there is none."""
        due = min((each.due for each in self._outages.values()), default=math.inf)
        return max(0.0, due - self._clock())

    def record_failure(self, partitions: Sequence[int], error: Exception, *, alone: bool) -> None:
        """Redis answers with an error, or the node of these does not answer.

        alone: whether the worker has no other partition that goes on.
        """
        now = self._clock()
        if not self._outages:
            self._began = now
            self._named.clear()
            log.critical(
                "The worker cannot store %s, as %s: %s. The snapshots wait in the stream, and the worker "
                "tries again%s.",
                named(partitions, self.keyspace),
                _why(error, len(partitions)),
                error,
                "" if alone else "; it goes on with the other partitions",
            )
        for partition in partitions:
            outage = self._outages.get(partition)
            wait_s = FIRST_WAIT_S if outage is None else min(2 * outage.wait_s, LONGEST_WAIT_S)
            self._outages[partition] = _Outage(wait_s, now + wait_s)
        self._named.update(partitions)

    def record_success(self, partition: int) -> None:
        """Redis answers for a partition; where it was the last one, that is logged."""
        outage = self._outages.pop(partition, None)
        if outage is not None and not self._outages:
            log.warning(
                "The worker stores all partitions again: %s answered after %.1f s.",
                named(self._named, self.keyspace),
                self._clock() - self._began,
            )

    def keep(self, partitions: Iterable[int]) -> None:
        """Forget the others: another worker has them now."""
        for partition in self._outages.keys() - set(partitions):
            del self._outages[partition]


def _why(error: Exception, partitions: int) -> str:
    if isinstance(error, OtherDatabase):
        return "it is another database's"
    return "Redis does not serve " + ("it" if partitions == 1 else "them")


def named(partitions: Iterable[int], keyspace: Keyspace = NO_NAMESPACE) -> str:
    """For a person: partition 3, or partitions 0, 3; with several namespaces partition desk1/3."""
    shown = [keyspace.name(each) for each in sorted(partitions)]
    return f"partition {shown[0]}" if len(shown) == 1 else f"partitions {', '.join(shown)}"
