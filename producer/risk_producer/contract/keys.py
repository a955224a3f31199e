"""Where things are in Redis.

Every key of a partition carries the same hash tag, ``{p}``, so that on a Redis Cluster one script may
touch all of them. Every key of a deployment begins with its namespace, where it has one. Workers and
commands may serve several namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

PARTITIONS_MAX: Final = 256
"""The greatest RISK_PARTITIONS: partitions are 0 to 255."""

NAMESPACE: Final = r"\A[A-Za-z0-9._-]{1,64}\Z"
"""What a namespace looks like: no braces, which make hash tags, and no colon, which ends it."""

NAMESPACES: Final = r"\A[A-Za-z0-9._-]{1,64}(\s*,\s*[A-Za-z0-9._-]{1,64})*\Z"
"""Several of them, as a setting has them."""

_JOINED: Final = "+"
"""Between the namespaces of a process that serves several; none of them can contain it."""
_STREAM: Final = ":risk:{"


def partition_of(trader_id: str, partitions: int) -> int:
    """The partition of a trader: crc32 of its id in UTF-8, modulo the number of partitions."""
    return crc32(trader_id.encode()) % partitions


@dataclass(frozen=True, slots=True)
class Keys:
    """The Redis keys of one partition."""

    partition: int
    namespace: str = ""

    def _key(self, name: str) -> str:
        return f"{prefix(self.namespace)}risk:{{{self.partition}}}:{name}"

    @property
    def snapshots(self) -> str:
        """Stream: what is in it is not yet in Postgres. One entry has one field, ``s`` (see wire)."""
        return self._key("snapshots")

    @property
    def latest(self) -> str:
        """Hash trader_id -> the newest admitted snapshot, in the wire format."""
        return self._key("latest")

    @property
    def epochs(self) -> str:
        """Hash trader_id -> the last epoch given out (ms since 1970, or one more than the last).

        Its field "" is no trader, and that of ``admitted`` no incarnation: it holds a text too
        long for the list that Redis makes of a small hash, in which it would find a trader by trying all.
        """
        return self._key("epochs")

    @property
    def floors(self) -> str:
        """Hash trader_id -> the epoch of the trader in Postgres, where Redis had lost it or a greater one.

        The workers restore it. Its field "" is the run_id of the server that was compared with Postgres as a
        whole; where it is missing or another, this Redis may have lost data.
        """
        return self._key("floors")

    @property
    def behind(self) -> str:
        """Hash trader_id -> the epoch from which on its newest snapshot is known again.

        Until then the newest one may be in history under an epoch smaller than the one of its state: Redis
        had lost its data, and gave that epoch out before a worker restored the floors.
        """
        return self._key("behind")

    @property
    def admitted(self) -> str:
        """Hash "epoch:trader_id" -> the last seq admitted, which is the number of snapshots accepted.

        The workers drop it a day after the trader's next epoch was given out.
        """
        return self._key("admitted")

    @property
    def superseded(self) -> str:
        """List of "ms epoch:trader_id": epochs that a newer one followed, and when; the oldest first."""
        return self._key("superseded")

    @property
    def repairs(self) -> str:
        """Stream of what `riskstream repair` and `rebind` changed: who, when, what was there before."""
        return self._key("repairs")

    @property
    def database(self) -> str:
        """String: the identity of the database that the partition is stored in; see ``risk_deployment``.

        The first worker writes it. Where it is another database's, no worker stores anything.
        """
        return self._key("database")

    @property
    def partitioning(self) -> str:
        """String ``version:partitions,other,...``: the partition's copy of what is agreed on about their
        number.

        The copy of partition 0 is the first one; the workers write the others, and all of them anew after
        Redis lost its data. `riskstream partitions` changes it.
        """
        return self._key("partitioning")

    @property
    def counters(self) -> str:
        """Hash name -> total of the partition: accepted, conflated, foreign, stored, duplicates, dead, ...

        foreign: entries taken off the stream that no producer had admitted. unreadable: counters that could
        not be counted and started anew. latency_sum_ms: of all stored, from recorded_at to COMMIT.
        acknowledged_ms is no total but the time of the last acknowledgement.
        """
        return self._key("counters")

    @property
    def attempts(self) -> str:
        """Hash trader_id -> snapshots that a worker tried to store, tries that failed included."""
        return self._key("attempts")

    @property
    def failures(self) -> str:
        """Hash trader_id -> snapshots in tries that failed, and dead letters."""
        return self._key("failures")

    @property
    def latency_ms(self) -> str:
        """Hash trader_id -> ms from recorded_at to COMMIT of the trader's newest stored snapshot."""
        return self._key("latency_ms")

    @property
    def write_probe(self) -> str:
        """Stream: always empty; the command that tries whether Redis takes writes does not make it."""
        return self._key("write-probe")

    @property
    def probe(self) -> str:
        """What keys begin with that `riskstream doctor` makes, and removes at once.

        The commands that the system needs are tried on them.
        """
        return self._key("probe")

    @property
    def latency_buckets(self) -> str:
        """Hash upper bound in ms -> snapshots stored within it (not cumulative); "+Inf" is the rest."""
        return self._key("latency_buckets")


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The names of all keys that a process uses, those of RQ included. Made once, from the settings.

    A process that serves several namespaces numbers their partitions one after the other: those of the first
    from 0 on, those of the second from PARTITIONS_MAX on, and so forth. With one namespace the number of a
    stream is its partition. Numbers are never written anywhere.
    """

    namespace: str = ""
    """What they begin with, before a colon; empty: they begin as they do without one. Several: joined by +,
    and what is of no single one, as RQ's keys are, begins with all in braces: {desk1:desk2}."""

    @classmethod
    def of(cls, namespaces: Iterable[str]) -> Keyspace:
        """That of these namespaces, in whichever order they are named."""
        return cls(_JOINED.join(sorted(set(namespaces))))

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of them; "": there is none."""
        return tuple(self.namespace.split(_JOINED))

    @property
    def is_several(self) -> bool:
        """Whether there are more namespaces than one."""
        return _JOINED in self.namespace

    @property
    def each(self) -> tuple[Keyspace, ...]:
        """One for each namespace."""
        return tuple(map(Keyspace, self.namespaces)) if self.is_several else (self,)

    def keys(self, number: int) -> Keys:
        """The keys of one stream."""
        if not self.is_several:
            return Keys(number, self.namespace)
        at, partition = divmod(number, PARTITIONS_MAX)
        return Keys(partition, self.namespaces[at])

    def number_of(self, keys: Keys) -> int:
        """The number of the stream that has these keys."""
        if not self.is_several:
            return keys.partition
        return PARTITIONS_MAX * self.namespaces.index(keys.namespace) + keys.partition

    def numbers(self, width: int) -> Sequence[int]:
        """Of the streams that there are where each namespace has so many partitions."""
        if not self.is_several:
            return range(width)
        return [
            PARTITIONS_MAX * at + partition
            for at in range(len(self.namespaces))
            for partition in range(width)
        ]

    def name(self, number: int) -> str:
        """A stream for a person, behind the word partition: 3; or desk1/3, with several namespaces."""
        return f"{self.keys(number).namespace}/{number % PARTITIONS_MAX}" if self.is_several else str(number)

    @property
    def rq_prefix(self) -> str:
        """What RQ's keys have to begin with: RQ_KEY_PREFIX."""
        return f"{self._prefix()}rq"

    @property
    def drain_jobs(self) -> str:
        """Hash, in RQ's Redis: how many drain jobs were re-enqueued, and how many tries to do so failed."""
        return f"{self._prefix()}risk:drain-jobs"

    @property
    def database(self) -> str:
        """String, in RQ's Redis: the identity of the database that the drain jobs' workers store into."""
        return f"{self._prefix()}risk:database"

    def _prefix(self) -> str:
        return f"{{{':'.join(self.namespaces)}}}:" if self.is_several else prefix(self.namespace)


NO_NAMESPACE: Final = Keyspace()


def namespace_of(stream: str) -> str:
    """The namespace of a stream's key; "": it has none."""
    namespace, found, _ = stream.partition(_STREAM)
    return namespace if found else ""


def prefix(namespace: str) -> str:
    """What each key of a namespace begins with."""
    return f"{namespace}:" if namespace else ""
