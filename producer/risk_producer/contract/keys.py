"""Where things are in Redis.

Every key of a partition carries the same hash tag, ``{p}``, so that on a Redis Cluster one script may
touch all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import crc32

PARTITIONS_MAX: Final = 256
"""The greatest RISK_PARTITIONS: partitions are 0 to 255."""


def partition_of(trader_id: str, partitions: int) -> int:
    """The partition of a trader: crc32 of its id in UTF-8, modulo the number of partitions."""
    return crc32(trader_id.encode()) % partitions


@dataclass(frozen=True, slots=True)
class Keys:
    """The Redis keys of one partition."""

    partition: int

    def _key(self, name: str) -> str:
        return f"risk:{{{self.partition}}}:{name}"

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
        """Stream of what `riskstream repair` changed: who, when, what was there before."""
        return self._key("repairs")

    @property
    def counters(self) -> str:
        """Hash name -> total of the partition: accepted, conflated, foreign, stored, duplicates, dead, ...

        foreign: entries taken off the stream that no producer had admitted. unreadable: counters that could
        not be counted and started anew. acknowledged_ms is no total but the time of the last acknowledgement.
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
    def latency_buckets(self) -> str:
        """Hash upper bound in ms -> snapshots stored within it (not cumulative); "+Inf" is the rest."""
        return self._key("latency_buckets")
