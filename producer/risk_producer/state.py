"""What load() finds: the newest state of a trader, where it came from, and who could not be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from risk_producer.errors import StateUnknown
from risk_producer.snapshot import RiskSnapshot
from risk_producer.wire import WireSnapshot

Place = Literal["memory", "spool", "redis", "postgres"]


@dataclass(frozen=True, slots=True)
class LoadedState:
    """The newest known state of a trader."""

    snapshot: RiskSnapshot
    source: Place
    """Where it was found: this producer's memory, its spool, Redis, or Postgres."""
    age_s: float
    """Seconds from recorded_at to the moment of loading, by this machine's clock."""
    unanswered: tuple[str, ...] = ()
    """Places that might know a newer state and could not be asked. Empty: there is no newer one."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answers of the places that were asked. memory: what this producer holds, and under which epoch."""

    memory: RiskSnapshot | None
    epoch: int | None
    held_in: Place = "memory"
    redis: WireSnapshot | None = None
    postgres: WireSnapshot | None = None
    unanswered: Sequence[tuple[Place, str]] = ()
    """Places that could not be asked, and why."""

    def newest(self, trader_id: str) -> LoadedState | None:
        """The newest by (epoch, seq). None is certain; StateUnknown where it would not be.

        This producer's memory is newer than all that is stored, except when a newer producer exists. What an
        earlier life left in the spool may have no epoch yet: then the time tells.
        """
        stored = max(
            ((wire, place) for wire, place in ((self.redis, "redis"), (self.postgres, "postgres")) if wire),
            key=lambda found: (found[0].epoch, found[0].seq),
            default=None,
        )
        snapshot: RiskSnapshot
        source: Place
        if self.memory is not None and (stored is None or not self._is_older_than(stored[0])):
            snapshot, source = self.memory, self.held_in
        elif stored is not None:
            snapshot, source = stored[0].snapshot, "redis" if stored[1] == "redis" else "postgres"
        elif self.unanswered:
            reasons = "; ".join(f"{place}: {reason}" for place, reason in self.unanswered)
            raise StateUnknown(f"whether {trader_id!r} has a state cannot be known now ({reasons})")
        else:
            return None
        age_s = (datetime.now(UTC) - snapshot.recorded_at).total_seconds()
        return LoadedState(snapshot, source, age_s, tuple(place for place, _ in self.unanswered))

    def _is_older_than(self, stored: WireSnapshot) -> bool:
        """Whether memory is older than what is stored."""
        if self.epoch is not None:
            return self.epoch < stored.epoch
        assert self.memory is not None
        return self.held_in == "spool" and self.memory.recorded_at < stored.recorded_at
