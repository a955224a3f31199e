"""How far each partition is, and whether it moves: progress, not liveness.

A partition is stalled while entries wait in it and none of them is acknowledged. Every instrument says so in
the same words: the worker's log, the exporter's /readyz, and `riskstream verify`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

from risk_producer.contract.counters import ACKNOWLEDGED_MS
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import AWAY, Question, ask

log = logging.getLogger("riskstream.progress")

BOUND_S: Final = 60.0
"""A partition that has not been drained for so long is a problem."""


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """How far one partition is."""

    partition: int
    length: int = 0
    """Entries that wait, those in a worker's hands included."""
    oldest_age_s: float = 0.0
    """Seconds since the oldest of them was added, by Redis' own clock; 0 where none waits."""
    stalled_s: float = 0.0
    """Seconds for which none was acknowledged while entries wait; infinite: the stream cannot be read."""
    first_id: bytes = b""
    """The oldest entry's id."""
    error: str = ""
    """Why the stream cannot be read."""
    away: bool = False
    """It is because the node of a cluster that has it does not answer."""
    namespace: str = ""
    name: str = ""
    """What it is called, see Keyspace; empty: by its number."""

    @property
    def keys(self) -> Keys:
        return Keys(self.partition, self.namespace)

    @property
    def shown(self) -> str:
        """The partition, for a person."""
        return self.name or str(self.partition)

    def is_stalled(self, bound_s: float = BOUND_S) -> bool:
        return self.stalled_s >= bound_s

    def __str__(self) -> str:
        """The sentence that every instrument shows."""
        if self.away:
            return (
                f"Partition {self.shown} cannot be drained: its node of the Redis Cluster does not "
                f"answer ({self.error})"
            )
        if self.error:
            return (
                f"Partition {self.shown} cannot be drained: Redis' key {self.keys.snapshots} "
                f"cannot be read ({self.error})"
            )
        noun = "snapshot waits" if self.length == 1 else "snapshots wait"
        return (
            f"Partition {self.shown} has not been drained for {duration(self.stalled_s)} "
            f"({self.length:,} {noun})"
        )


def read(
    client: RedisClient, partitions: Iterable[int], keyspace: Keyspace = NO_NAMESPACE
) -> list[PartitionProgress]:
    """How far the partitions are. partitions: the numbers of their streams.

    Raises one of REDIS_ERRORS where no server answers.
    """
    numbers = list(partitions)
    questions: list[Question] = []
    for number in numbers:
        keys = keyspace.keys(number)
        stream = keys.snapshots
        commands = (
            ("TIME",),
            ("XLEN", stream),
            ("XRANGE", stream, "-", "+", "COUNT", 1),
            ("HGET", keys.counters, ACKNOWLEDGED_MS),
        )
        questions += [(stream, words) for words in commands]
    answers = ask(client, questions)
    clocks = answers[::4]
    if clocks and all(isinstance(each, Exception) for each in clocks):
        raise clocks[0]
    found = [
        _progress(keyspace.keys(number), *answers[4 * at : 4 * at + 4]) for at, number in enumerate(numbers)
    ]
    if keyspace.is_several:
        found = [
            replace(each, name=keyspace.name(number)) for each, number in zip(found, numbers, strict=True)
        ]
    return found


def problems(
    client: RedisClient,
    partitions: Iterable[int],
    keyspace: Keyspace = NO_NAMESPACE,
    bound_s: float = BOUND_S,
) -> list[str]:
    """A sentence for each partition that is stalled now. Arguments, and what it raises: as read()."""
    return [str(each) for each in read(client, partitions, keyspace) if each.is_stalled(bound_s)]


class Watch:
    """Looks again and again, and so sees a stall that Redis' clock hides: the oldest entry stays the same.

    look() is thread-safe. All methods raise one of REDIS_ERRORS where no server answers.
    """

    REPEAT_EVERY_S: Final = 60.0

    def __init__(
        self,
        client: RedisClient,
        partitions: Iterable[int] | Callable[[], Iterable[int]],
        keyspace: Keyspace = NO_NAMESPACE,
        *,
        bound_s: float = BOUND_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """partitions: the numbers of their streams, or what returns them (and raises as look() does)."""
        self._client = client
        self._partitions = partitions
        self._keyspace = keyspace
        self._bound_s = bound_s
        self._clock = clock
        self._lock = threading.Lock()
        # Of each partition:
        self._away: dict[Keys, float] = {}  # since when its node does not answer
        self._first: dict[Keys, tuple[bytes, float]] = {}  # its oldest entry, since when it is that
        self._logged: dict[Keys, tuple[str, float, float]] = {}  # its name, stalled since, last logged at

    def look(self) -> list[PartitionProgress]:
        """How far all partitions are."""
        partitions = self._partitions() if callable(self._partitions) else self._partitions
        seen = read(self._client, partitions, self._keyspace)
        now = self._clock()
        with self._lock:
            return [self._with_own_time(each, now) for each in seen]

    def stalled(self) -> list[PartitionProgress]:
        """The partitions that are stalled."""
        return [each for each in self.look() if each.is_stalled(self._bound_s)]

    def report(self) -> list[PartitionProgress]:
        """The partitions that are stalled; logs each when it begins, then each minute, and when it ends."""
        stalled = self.stalled()
        now = self._clock()
        for each in stalled:
            _, since, logged_at = self._logged.get(each.keys, ("", now, -math.inf))
            if now - logged_at >= self.REPEAT_EVERY_S:
                log.error("%s.", each)
                logged_at = now
            self._logged[each.keys] = (each.shown, since, logged_at)
        for keys in self._logged.keys() - {each.keys for each in stalled}:
            name, since, _ = self._logged.pop(keys)
            log.warning("Partition %s is drained again after %s.", name, duration(now - since))
        return stalled

    def _with_own_time(self, seen: PartitionProgress, now: float) -> PartitionProgress:
        if seen.away:  # a failover takes some seconds, and is no stall
            return replace(seen, stalled_s=now - self._away.setdefault(seen.keys, now))
        self._away.pop(seen.keys, None)
        if not seen.first_id:
            self._first.pop(seen.keys, None)
            return seen
        first_id, since = self._first.get(seen.keys, (b"", now))
        if first_id != seen.first_id:
            since = now
        self._first[seen.keys] = (seen.first_id, since)
        return replace(seen, stalled_s=max(seen.stalled_s, now - since))


def duration(seconds: float) -> str:
    """For a person: 75 s, 6 min, 5 h, 3 d."""
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size_s:
            return f"{int(seconds // size_s)} {unit}"
    return f"{int(seconds)} s"


def _progress(keys: Keys, server_time: Any, length: Any, first: Any, acknowledged: Any) -> PartitionProgress:
    partition, namespace = keys.partition, keys.namespace
    for answer in (server_time, length, first):
        if isinstance(answer, Exception):
            away = isinstance(answer, AWAY)
            return PartitionProgress(
                partition, stalled_s=math.inf, error=str(answer), away=away, namespace=namespace
            )
    now_ms = server_time[0] * 1000 + server_time[1] / 1000
    if not first:
        return PartitionProgress(partition, namespace=namespace)
    first_id: bytes = first[0][0]
    age_s = max(0.0, (now_ms - int(first_id.partition(b"-")[0])) / 1000)
    since_ms = _milliseconds(acknowledged)
    # What is ahead of the clock says nothing: the clock went back.
    idle_s = (now_ms - since_ms) / 1000 if since_ms is not None and since_ms <= now_ms else math.inf
    return PartitionProgress(partition, length, age_s, min(age_s, idle_s), first_id, namespace=namespace)


def _milliseconds(raw: Any) -> float | None:
    """None: there is none, or it cannot be read."""
    try:
        value = float(raw)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
