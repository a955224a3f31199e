"""What a session counts. Plain additions; Prometheus' objects are made from a sample when it scrapes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from time import time

from risk_producer.contract.snapshot import RiskSnapshot


@dataclass(slots=True)
class MetricsSample:
    """The values of a producer's metrics at one moment, or the sums of several producers."""

    accepted: int = 0
    rejected: int = 0
    conflated: int = 0
    unsent: int = 0
    unknown: int = 0
    outages: int = 0
    unreplicated: int = 0
    buffered: int = 0
    oldest_s: float = 0.0
    fenced: int = 0
    away: int = 0
    """Partitions whose snapshots Redis does not take just now."""
    on_postgres: int = 0
    """Producers whose backend is postgres."""
    on_memory: int = 0
    """Producers whose backend is memory."""
    attempts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def add(self, other: MetricsSample) -> None:
        """Add another sample to this one."""
        for name in SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.oldest_s = max(self.oldest_s, other.oldest_s)
        self.attempts.update(other.attempts)
        self.failures.update(other.failures)
        self.latency_ms.update(other.latency_ms)


SUMMED = (
    *("accepted", "rejected", "conflated", "unsent", "unknown", "outages", "unreplicated"),
    *("buffered", "fenced", "away", "on_postgres", "on_memory"),
)
"""The fields of a sample that add() sums up."""


class Counts:
    """The session's own counts; its lock guards them. Buffer and sender count what they do themselves."""

    __slots__ = (
        *("_in_memory", "attempts", "failures", "rejected", "saved", "spooled", "unknown", "unreplicated"),
        "unsent",
    )

    def __init__(self) -> None:
        self.saved = 0
        """Snapshots accepted, and those that the spool held."""
        self.spooled = 0
        """Snapshots left in the spool at the end."""
        self.rejected = 0
        self.unknown = 0
        """Snapshots sent, and not answered when close() stopped."""
        self.unreplicated = 0
        """Calls that fewer replicas have confirmed than have to."""
        self.unsent = 0
        """Snapshots left in memory when close() stopped; those that cannot be encoded are the sender's."""
        self.attempts: Counter[str] = Counter()
        """trader_id -> snapshots that only memory held."""
        self.failures: Counter[str] = Counter()
        """trader_id -> snapshots that memory could not hold either."""
        self._in_memory: dict[str, tuple[float, datetime]] = {}
        """Of the newest snapshot of each trader that only memory held: since when, and its recorded_at."""

    def add_in_memory(self, snapshot: RiskSnapshot) -> None:
        """Count a snapshot that only memory holds."""
        self.attempts[snapshot.trader_id] += 1
        self._in_memory[snapshot.trader_id] = (time(), snapshot.recorded_at)

    def add_rejected(self, snapshot: RiskSnapshot, *, in_memory: bool) -> None:
        """Count a snapshot for which there was no room; in_memory: and memory was all that could hold it."""
        self.rejected += 1
        if in_memory:
            self.attempts[snapshot.trader_id] += 1
            self.failures[snapshot.trader_id] += 1

    def latency_ms(self) -> dict[str, float]:
        """trader_id -> milliseconds from recorded_at to memory, of its newest that only memory held."""
        return {
            trader_id: (kept_at - recorded_at.timestamp()) * 1000
            for trader_id, (kept_at, recorded_at) in self._in_memory.items()
        }
