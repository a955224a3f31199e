"""How the whole system is at one moment: plain values, which the screen, JSON and the problems are made of.

None stands for what is not known, and "" for no error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from risk_worker.stream.server import ServerFacts

WorkerState = Literal["alive", "silent", "gone"]
"""silent: not heard of for the lease. gone: its process was on this host, and runs no more."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has registered."""

    name: str
    host: str
    pid: int
    since: datetime | None
    """When it registered, by its own clock."""
    state: WorkerState
    heard_s: float | None
    """Seconds since its last heartbeat, by Redis' clock."""
    share: int | None = None
    shares: int | None = None
    """Of all partitions it drains the one at place share, at share + shares, ...; None: it is between two
    time slices, or idle."""
    commit_wait_s: float = 0.0
    """For how long it has waited for a COMMIT, where that is long."""
    cannot_store: str = ""
    """Why the database takes nothing from it, as its log has it."""

    @property
    def where(self) -> str:
        """For a person: its host and its process."""
        return f"{self.host or 'an unknown host'} {self.pid or '?'}"

    def drains(self, place: int) -> bool:
        """Whether the partition at this place among all of them is one of its share."""
        if self.share is None or not self.shares or self.state != "alive":
            return False
        return place % self.shares == self.share


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition's stream."""

    partition: int
    """The number of its stream: with several namespaces those of the second begin at 256, and so forth."""
    worker: WorkerStatus | None = None
    """The one that drains it now, as far as RQ knows."""
    in_flight: int = 0
    """Entries that are accepted and not stored."""
    cap: int = 0
    """Entries that it may hold, by RISK_STREAM_MAXLEN here."""
    oldest_s: float = 0.0
    """Age of the oldest of them; 0 where there is none."""
    last_commit_s: float | None = None
    """Seconds since a worker last took a committed batch off it; None: never."""
    rows_per_s: float | None = None
    """Stored and dead letters, in the last moment."""
    stalled_s: float | None = 0.0
    """For how long nothing was stored while entries wait; None: the stream cannot be read."""
    error: str = ""
    """The sentence for a stream that cannot be read."""
    away: bool = False
    """It is because the node of a cluster that has it does not answer."""
    name: str = ""
    """Where there are several namespaces: desk1/3."""

    @property
    def shown(self) -> str:
        """What it is called."""
        return self.name or str(self.partition)

    @property
    def filled(self) -> float:
        """The part of the cap that is used, from 0 to 1; above it where others have another cap."""
        return self.in_flight / self.cap if self.cap else 0.0


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """The Redis with the streams."""

    url: str
    """Secrets masked."""
    error: str = ""
    """Why nothing is known: a sentence."""
    servers: tuple[ServerFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """RQ's Redis, which may be the same."""

    url: str
    separate: bool = False
    """Whether it is another Redis than that of the streams."""
    error: str = ""
    suspended: bool = False
    """Whether `rq suspend` keeps the workers from taking jobs."""


@dataclass(frozen=True, slots=True)
class PostgresStatus:
    """The database."""

    url: str
    error: str = ""
    """Why it cannot be used: a sentence."""
    refused: bool = False
    """An operator has to change something before it can be used; else it may come back by itself."""
    version: str | None = None
    timescale: str | None = None
    """What there is of TimescaleDB, for a person."""
    read_only: str = ""
    """Why nothing can be written: a sentence."""
    applied: int | None = None
    """Migrations that are applied."""
    pending: tuple[str, ...] = ()
    """Migrations that this version has and the database has not."""
    unknown: tuple[str, ...] = ()
    """Migrations that the database has and this version does not know: it is of a newer one."""
    missing_tables: tuple[str, ...] = ()
    missing_grants: tuple[str, ...] = ()
    """Each as a statement that would give it; empty where the role only reads."""
    only_reads: bool = False
    """The role is a reader's, so what a worker's may do is not known."""

    @property
    def hinders(self) -> bool:
        """Whether workers cannot store because of it."""
        return bool(
            self.error or self.read_only or self.pending or self.missing_tables or self.missing_grants
        )


@dataclass(frozen=True, slots=True)
class TraderStatus:
    """A trader that is paused or silent, as its newest stored snapshot says."""

    trader_id: str
    silent_s: float
    """Since that was recorded or stored, whichever is longer ago."""
    paused_until: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TradersStatus:
    """All traders together, and some of them."""

    stored: int | None = None
    """How many Postgres knows."""
    in_redis: int | None = None
    """How many Redis knows."""
    paused: int | None = None
    silent: int | None = None
    """Those that had no snapshot for SILENT_S."""
    some_paused: tuple[TraderStatus, ...] = ()
    """Those that paused last."""
    some_silent: tuple[TraderStatus, ...] = ()
    """Those that fell silent last."""


@dataclass(frozen=True, slots=True)
class DeadLettersStatus:
    """What could not be stored and waits for a decision."""

    count: int
    more: bool = False
    """There are more than were counted."""
    newest_s: float | None = None
    """Since the newest was put there."""
    newest_reason: str = ""


@dataclass(frozen=True, slots=True)
class RestoredStatus:
    """A worker found that Redis is new, or had lost its data."""

    traders: int
    """How many got back from Postgres what was lost; of the others Redis had something newer by then."""
    ago_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """All of it."""

    at: datetime
    namespace: str
    """Several are joined by +."""
    redis: RedisStatus
    queue: QueueStatus
    postgres: PostgresStatus
    workers: tuple[WorkerStatus, ...] | None = None
    """None: RQ's Redis did not answer."""
    partitions: tuple[PartitionStatus, ...] | None = None
    """None: Redis did not answer."""
    partitions_agreed: int | None = None
    partitions_here: int = 1
    """RISK_PARTITIONS where this was asked."""
    traders: TradersStatus = field(default_factory=TradersStatus)
    dead_letters: DeadLettersStatus | None = None
    totals: dict[str, int] | None = None
    """Of all partitions, since Redis was first used: accepted, stored, dead, conflated, ..."""
    other_database: str = ""
    """The sentence for streams that another database is written beside."""
    behind: int = 0
    """Traders whose newest state cannot be known, since Redis lost its data."""
    restored: RestoredStatus | None = None
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, or worth knowing."""

    name: str
    """Stays the same, for programs."""
    what: str
    """A sentence."""
    todo: str = ""
    """What to do about it."""
    serious: bool = True
    """False: it hinders nothing, and changes no exit status."""
