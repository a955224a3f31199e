"""What the threaded and the asyncio producer have in common: everything but waiting."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import parent_process, util
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, Literal, Self
from weakref import WeakSet

from prometheus_client import CollectorRegistry

from risk_producer.buffer import Buffer, Item, OnFull
from risk_producer.connect import check_redis_url
from risk_producer.errors import InvalidSnapshot, ProducerClosed, StreamFull, StreamUnavailable
from risk_producer.keys import Keys, partition_of
from risk_producer.metrics import Reading, collector_of
from risk_producer.outage import Outage
from risk_producer.outbox import Outbox
from risk_producer.settings import Settings
from risk_producer.snapshot import RiskSnapshot, with_last_reset
from risk_producer.spool import Fsync, Spool
from risk_producer.state import LoadedState, Place
from risk_producer.stream import Admission, Admit

log = logging.getLogger("riskstream.producer")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long close(), and the end of the process, wait for the buffer to empty."""

LINGER_S: Final = 0.002
"""How long a small batch waits to grow, unless a push() waits for it: a flusher woken for each snapshot
would cost the trader more than the snapshot."""

NEVER: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Health:
    """How a producer is."""

    backend: Literal["postgres", "memory"]
    """memory: Redis is away, or persistence is off."""
    reason: str | None
    """Why the backend is memory."""
    stream_full: bool
    buffered: int
    """Snapshots in memory that Redis has not confirmed."""
    buffer_size: int
    accepted: int
    """Snapshots that Redis has taken, those merged into others included."""
    refused: int
    conflated: int
    spool: str
    """off, on, or why it fails: then snapshots are in memory only."""
    fenced: tuple[str, ...]
    """Traders for which a newer producer has taken over: history goes on, the state is the newer one's."""
    closed: bool


class ProducerCore:
    """Buffer, identity, counts and health of a producer. Subclasses bring the flusher and the waiting."""

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        client: Any = None,
        partitions: int = 1,
        stream_maxlen: int = 1_000_000,
        buffer_size: int = 1_024,
        save_timeout_s: float = 5.0,
        on_full: OnFull = "block",
        spool_dir: Path | str | None = None,
        spool_fsync: Fsync = "never",
        spool_max_bytes: int = 64 * 1024 * 1024,
        database_url: str | None = None,
        persistent: bool = True,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Nothing is connected before it is needed.

        redis_url        Redis with the stream
        client           instead of redis_url: a redis-py client of your own, with finite timeouts
        partitions       streams that traders are spread over; the same for all producers and workers
        stream_maxlen    entries that a partition's stream may hold
        buffer_size      snapshots that memory may hold
        save_timeout_s   seconds that save() and push() wait for room
        on_full          what save() does when the buffer is full: "block" waits for room; "refuse" answers
                         False at once; "conflate" merges older snapshots of a trader into its newest one,
                         but never one with another pause or reason than the one before it, and blocks where
                         nothing can be merged
        spool_dir        folder of this producer alone, where what is accepted survives the process
        spool_fsync      "never": survives a crash of the process; "interval": of the machine too, but for
                         the last second or two; "always": each save() waits for the disk
        spool_max_bytes  what the spool may take; beyond it counts as a full buffer
        database_url     where load() asks too; needs psycopg
        persistent       False: keep state in memory only and send nothing
        registry         where the metrics are; default: Prometheus' own
        """
        if persistent and (redis_url is None) == (client is None):
            raise TypeError(f"{type(self).__name__} needs one of redis_url and client")
        if redis_url is not None:
            check_redis_url(redis_url, "redis_url")
        self._redis_url = redis_url
        self._client = client
        self._partitions = partitions
        self._stream_maxlen = stream_maxlen
        self._buffer_size = buffer_size
        self._save_timeout_s = save_timeout_s
        self._on_full: OnFull = on_full
        self._database_url = database_url
        self._persistent = persistent
        self._spool: Spool | None = None
        if spool_dir is not None and persistent:
            self._spool = Spool(Path(spool_dir), fsync=spool_fsync, max_bytes=spool_max_bytes)
        self._sync_each = self._spool is not None and spool_fsync == "always"
        self._begin()
        if self._spool is not None:
            self._restore(self._spool)
        self._collector = collector_of(registry)
        self._collector.watch(self)

    @classmethod
    def from_settings(cls, settings: Settings, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with these settings. ConfigurationError where REDIS_URL is missing and needed."""
        return cls(
            settings.require_redis_url() if settings.persistent else None,
            partitions=settings.partitions,
            stream_maxlen=settings.stream_maxlen,
            buffer_size=settings.buffer_size,
            save_timeout_s=settings.save_timeout_s,
            on_full=settings.on_full,
            spool_dir=settings.spool_dir,
            spool_fsync=settings.spool_fsync,
            spool_max_bytes=settings.spool_max_bytes,
            database_url=settings.database_url,
            persistent=settings.persistent,
            registry=registry,
        )

    @classmethod
    def from_env(cls, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with the settings of the environment. Raises ConfigurationError."""
        return cls.from_settings(Settings.load(), registry=registry)

    def health(self) -> Health:
        """How it is just now. Asks nobody."""
        with self._lock:
            return Health(
                backend="memory" if self._in_memory else "postgres",
                reason=self._outage.reason if self._persistent else "persistence is off",
                stream_full=self._outbox.full,
                buffered=self._buffer.depth,
                buffer_size=self._buffer.size,
                accepted=self._outbox.accepted,
                refused=self._count.refused,
                conflated=self._buffer.conflated,
                spool="off" if self._spool is None else self._spool.failed or "on",
                fenced=tuple(sorted(self._outbox.fenced)),
                closed=self._closed,
            )

    def reading(self) -> Reading:
        """What the metrics show."""
        with self._lock:
            return Reading(
                accepted=self._outbox.accepted,
                refused=self._count.refused,
                conflated=self._buffer.conflated,
                unsent=self._count.unsent,
                outages=self._outage.count,
                buffered=self._buffer.depth,
                fenced=len(self._outbox.fenced),
                on_postgres=int(not self._in_memory),
                on_memory=int(self._in_memory),
                attempts=self._count.attempts.copy(),
                failures=self._count.failures.copy(),
                latency_ms={
                    trader_id: (kept_at - recorded_at.timestamp()) * 1000
                    for trader_id, (kept_at, recorded_at) in self._kept.items()
                },
            )

    def _begin(self) -> None:
        """A new life: empty buffer, no epochs, no flusher, no connection yet."""
        self._lock = threading.Lock()
        """Guards the buffer and the counts; held for moments, never across I/O."""
        self._buffer = Buffer(self._buffer_size, self._partitions, self._on_full)
        self._outbox = Outbox(self._buffer, self._lock, self._stream_maxlen, self._spool)
        self._outage = Outage()
        self._count = Reading()
        self._kept: dict[str, tuple[float, datetime]] = {}
        """Of the newest snapshot of each trader that only memory held: since when, and its recorded_at."""
        self._in_memory = not self._persistent
        """Whether only memory holds what is saved now."""
        self._wake_at = 1
        """Depth of the buffer at which save() wakes the flusher."""
        self._urgent = False
        """Somebody waits for what is in the buffer."""
        self._closed = False
        self._stopping = False
        self._loaded_resets: dict[str, datetime] = {}
        """last_reset_time of each trader that load() found."""
        self._replayed: dict[str, Item] = {}
        """The newest snapshot that the spool held of each trader."""
        _producers.add(self)

    def _after_fork_in_child(self) -> None:
        """What is in the buffer is the parent's to send; the connections and epochs are the parent's too."""
        closed, known = self._closed, self._buffer
        if self._spool is not None:
            self._spool.abandon()
            self._spool, self._sync_each = None, False
            log.warning("This process was forked: the spool is its parent's, snapshots are in memory only")
        self._begin()
        self._closed = closed
        if not self._persistent:
            self._buffer = known  # nobody else knows
        self._collector.forget_past()

    def _restore(self, spool: Spool) -> None:
        """Earlier lives' snapshots go first."""
        replay = spool.replay()
        self._buffer.life = spool.life
        self._outbox.restore(replay)
        with self._lock:
            self._replayed = {item.snapshot.trader_id: item for item in replay.items}
            if replay.items:
                self._wake()

    def _wake(self) -> None:
        """Let the flusher look at the buffer; start it if it is not there. With the lock held."""
        raise NotImplementedError

    def _end(self, deadline: float) -> None:
        """The process ends, and nobody closed this: do what can be done by then (monotonic, in seconds)."""
        raise NotImplementedError

    # Accepting

    def _accept(self, snapshot: RiskSnapshot) -> Item | None:
        """Put a snapshot into the buffer. None: no room, or closed. With the lock held."""
        if self._closed:
            return None
        if snapshot.last_reset_time is None:
            snapshot = with_last_reset(snapshot, self._last_reset_time(snapshot))
        if not self._persistent:
            self._count_in_memory(snapshot)
            return self._buffer.remember(snapshot)
        if self._spool is not None and not self._spool_has_room(self._spool):
            return None
        item = self._buffer.put(snapshot)
        if item is not None and self._spool is not None:
            self._spool.append(item, self._outbox.epoch_of, self._buffer.items)
        if item is not None and self._in_memory:
            self._count_in_memory(snapshot)
        if self._buffer.depth >= self._wake_at:
            self._wake()
        return item

    def _last_reset_time(self, snapshot: RiskSnapshot) -> datetime:
        """What a snapshot without one carries on: the trader's last one, else its own recorded_at."""
        newest = self._buffer.newest(snapshot.trader_id)
        if newest is not None and newest.last_reset_time is not None:
            return newest.last_reset_time
        return self._loaded_resets.get(snapshot.trader_id, snapshot.recorded_at)

    def _loaded(self, state: LoadedState | None) -> LoadedState | None:
        """load() found this: its last_reset_time is carried on. Returns it."""
        if state is not None and state.snapshot.last_reset_time is not None:
            self._loaded_resets[state.snapshot.trader_id] = state.snapshot.last_reset_time
        return state

    def _reject_invalid(self, trader_id: str, error: InvalidSnapshot) -> None:
        """A bound handle's save() answers False: a field breaks a rule, which is logged already."""
        with self._lock:
            self._count.refused += 1

    def _spool_has_room(self, spool: Spool) -> bool:
        if spool.size >= spool.max_bytes and self._on_full == "conflate":
            self._buffer.conflate()
        return spool.has_room(self._buffer.items, self._outbox.epoch_of)

    def _sync_spool(self, *, now: bool) -> None:
        """fsync, if it is time. Without the lock held."""
        fd = None
        try:
            with self._lock:
                fd = None if self._spool is None else self._spool.duplicate_to_sync(now=now)
            if fd is not None:
                os.fsync(fd)
        except OSError as error:
            with self._lock:
                if self._spool is not None:
                    self._spool.fail(error)
        finally:
            if fd is not None:
                os.close(fd)

    def _refuse(self, snapshot: RiskSnapshot) -> None:
        self._count.refused += 1
        if self._in_memory:
            self._count.attempts[snapshot.trader_id] += 1
            self._count.failures[snapshot.trader_id] += 1

    def _count_in_memory(self, snapshot: RiskSnapshot) -> None:
        self._count.attempts[snapshot.trader_id] += 1
        self._kept[snapshot.trader_id] = (time(), snapshot.recorded_at)

    def _why_refused(self, timeout_s: float) -> Exception:
        """What push() raises when there was no room."""
        if self._closed:
            return ProducerClosed("push() after close(): the snapshot was not accepted")
        return StreamFull(
            f"the buffer stayed full ({self._buffer_size} snapshots) for {timeout_s:g} s "
            f"({self._outage.reason or 'the stream is full'}); the snapshot was not accepted"
        )

    def _why_late(self, item: Item, timeout_s: float) -> Exception:
        """What push() raises when Redis does not have the item in time. Takes it back, if the stream is full
        and it is not on its way."""
        snapshot = item.snapshot
        with self._lock:
            lane = self._buffer.lanes[partition_of(snapshot.trader_id, self._partitions)]
            full = self._outbox.full_for(lane) and not self._outage.under_way
            if full and self._buffer.withdraw(item):
                self._refuse(snapshot)
                return StreamFull(
                    f"the stream stayed full ({self._stream_maxlen} snapshots) for {timeout_s:g} s; "
                    "the snapshot was not accepted"
                )
        return StreamUnavailable(
            f"Redis did not take the snapshot within {timeout_s:g} s "
            f"({self._outage.reason or 'it is busy'}); it stays here and goes out later"
        )

    # What the flusher learns

    def _half(self) -> int:
        return max(1, self._buffer.size // 2)

    def _was_admitted(self, call: Admit, answer: Admission) -> None:
        for trader_id in self._outbox.admitted(call, answer, monotonic()):
            log.critical(
                "A newer producer has taken over trader %r: this one's snapshots still go into "
                "its history, but its state is the newer one's",
                trader_id,
            )

    def _redis_answered(self) -> None:
        """With the lock held."""
        if self._outage.under_way:
            self._in_memory = False
            self._outage.ends()

    def _redis_is_away(self, error: StreamUnavailable) -> float:
        """Returns the seconds to wait before the next try. With the lock held."""
        if not self._outage.under_way:
            self._in_memory = True
            for item in self._buffer.items():
                self._count_in_memory(item.snapshot)
        return self._outage.goes_on(error)

    def _count_unsent(self) -> bool:
        """At the end: count what is left, and say so. Returns whether nothing is. With the lock held."""
        left = self._buffer.items()
        spool, self._spool, self._outbox.spool = self._spool, None, None
        if spool is not None:
            spool.close(empty=not left)
            if spool.failed is None:
                if left:
                    log.warning("Closed with %d snapshots in the spool, to be sent next time", len(left))
                return not left
        for item in left:
            self._count.unsent += item.merged + 1
            self._count.failures[item.snapshot.trader_id] += item.merged + 1
        if left:
            log.critical("Closed with %d snapshots that Redis does not have", self._count.unsent)
        return not left

    def _in_hand(self, trader_id: str) -> tuple[RiskSnapshot | None, int | None, Place]:
        """What load() finds here: the newest snapshot, its epoch, where it is. With the lock held."""
        newest, replayed = self._buffer.newest(trader_id), self._replayed.get(trader_id)
        if replayed is not None and newest is replayed.snapshot:
            return newest, self._outbox.epoch_of(replayed.life, trader_id), "spool"
        return newest, self._outbox.epoch(trader_id), "memory"

    def _keys_of(self, trader_id: str) -> Keys:
        return Keys(partition_of(trader_id, self._partitions))


def check(snapshot: object) -> None:
    """Raise InvalidSnapshot for what is no RiskSnapshot."""
    if not isinstance(snapshot, RiskSnapshot):
        raise InvalidSnapshot(f"a RiskSnapshot is expected, got {snapshot!r}")


class Pending:
    """What was in the buffer at one moment, for flush() to wait for."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def arrived(self) -> bool:
        """Whether Redis has it all by now."""
        while self._items and self._items[-1].arrived:
            self._items.pop()
        return not self._items


_producers: WeakSet[ProducerCore] = WeakSet()


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._after_fork_in_child()


def _end_all() -> None:
    deadline = monotonic() + CLOSE_TIMEOUT_S  # for all of them together
    for producer in list(_producers):
        producer._end(deadline)


def _end_all_in_child(_: object = None) -> None:
    """The processes of multiprocessing that are forked end without atexit."""
    util.Finalize(None, _end_all, exitpriority=0)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_end_all)
util.register_after_fork(_end_all, _end_all_in_child)
if parent_process() is not None:
    _end_all_in_child()
