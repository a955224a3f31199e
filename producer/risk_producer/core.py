"""What RiskProducer and AsyncRiskProducer have in common: how they are made, their session and flusher."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry

from risk_producer import process
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import InvalidSnapshot, StreamUnavailable
from risk_producer.flusher import Flusher
from risk_producer.metrics import collector_of
from risk_producer.session.buffer import Item, OnFull
from risk_producer.session.sender import Outbox
from risk_producer.session.session import STALL_S, Health, Options, ProducerSession
from risk_producer.settings import Settings
from risk_producer.spool.spool import Fsync, Spool
from risk_producer.transport.redis import Transport
from risk_producer.transport.requests import TraderStream

__all__ = ["Health", "Pending", "ProducerCore"]

PUSH_THROUGH_S: Final = 0.1
"""How long save() waits for Redis where it pushes through."""


class ProducerCore:
    """A thin facade: it may be dropped at any time, and the flusher sends what is left."""

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
        push_through: bool | None = None,
        stall_s: float = STALL_S,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Nothing is connected before it is needed.

        redis_url        Redis with the stream
        client           instead of redis_url: a redis.Redis of your own, with finite timeouts; in asyncio too
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
        push_through     save() waits until Redis has the snapshot, for 0.1 s at the most and not while Redis
                         is away; default: only in a daemonic process of multiprocessing, as those of a Pool
                         are, which its parent ends by SIGTERM
        stall_s          seconds after which the log and health() say why the oldest snapshot still waits
        registry         where the metrics are; default: Prometheus' own
        """
        if persistent and (redis_url is None) == (client is None):
            raise TypeError(f"{type(self).__name__} needs one of redis_url and client")
        transport = Transport(redis_url, client) if persistent else Transport(None)
        spool: Spool | None = None
        if spool_dir is not None and persistent:
            spool = Spool(Path(spool_dir), fsync=spool_fsync, max_bytes=spool_max_bytes)
        options = Options(
            partitions=partitions,
            stream_maxlen=stream_maxlen,
            buffer_size=buffer_size,
            save_timeout_s=save_timeout_s,
            on_full=on_full,
            persistent=persistent,
            stall_s=stall_s,
        )
        self._database_url = database_url
        self._push_through = push_through
        self._collector = collector_of(registry)
        session = ProducerSession(options, spool, sync_each=spool is not None and spool_fsync == "always")
        self._begin(session, transport)
        if session.depth:  # an earlier process left it in the spool
            session.hurry()  # not otherwise: gevent may not have replaced what locks are yet

    def _begin(self, session: ProducerSession, transport: Transport) -> None:
        self._session = session
        self._flusher = flusher = Flusher(session, transport)
        self._through_ends = -1  # of no snapshot yet is it known that it took too long
        flusher.on_end = partial(_ended, id(flusher), self._collector.retire)
        self._settle_role()
        self._finalizer = weakref.finalize(self, process.dropped, flusher)
        self._finalizer.atexit = False  # the end of the process has its own way
        self._collector.watch(session)
        process.register(self, flusher)

    def _settle_role(self) -> None:
        """Whether save() pushes through: known once multiprocessing has said what this process is."""
        through = process.is_short_lived() if self._push_through is None else self._push_through
        self._through = through and self._session.options.persistent
        self._careful = self._through or self._session.sync_each

    def _before_child(self) -> None:
        self._finalizer.detach()
        self._collector.forget()

    def _begin_child(self) -> None:
        self._begin(self._session.child(), self._flusher.transport.child())

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
        """How it is just now. Asks no other, and never raises."""
        return self._session.health()

    def _reject_invalid(self, trader_id: str, error: InvalidSnapshot) -> None:
        """A bound handle's save() answers False: a field breaks a rule, which is logged already."""
        self._session.reject()

    def _connected(self) -> TraderStream:
        return self._flusher.transport.connected()

    @property
    def _outbox(self) -> Outbox:
        return self._session._outbox

    def _try(self, snapshot: RiskSnapshot, box: list[Item]) -> bool:
        """Accept a snapshot into the box. Whether there is nothing to wait for."""
        item = self._session.accept(snapshot)
        if item is not None:
            box.append(item)
        return item is not None or self._session.closed

    def _may_wait_for_room(self) -> bool:
        session = self._session
        return not session.closed and session.options.on_full != "refuse" and self._flusher.can_wait()

    def _pushes_through(self) -> bool:
        """Whether save() should wait for Redis just now: not while it is away, or has just been too slow."""
        session = self._session
        slow = session.confirmed == self._through_ends
        return self._through and not session.in_memory and not slow and self._flusher.can_wait()

    def _is_over(self, item: Item) -> bool:
        return item.arrived or self._session.ended

    def _conclude(self, item: Item, timeout_s: float) -> None:
        """What push() raises, where Redis does not have the item."""
        final = item.survivor
        if final.lost:
            raise InvalidSnapshot("the snapshot cannot be encoded: it is left out, and the log says why")
        if not final.done:
            raise self._session.why_late(item, timeout_s)


def cannot_wait(item: Item | None, session: ProducerSession, timeout_s: float) -> Exception:
    """What push() raises in the flusher's own thread, or from within a call of the same producer."""
    if item is None:
        return session.why_refused(timeout_s)
    return StreamUnavailable(
        "push() was called from within the producer, which it cannot wait for; the snapshot goes out later"
    )


def check(snapshot: object) -> None:
    """Raise InvalidSnapshot for what is no RiskSnapshot."""
    if not isinstance(snapshot, RiskSnapshot):
        raise InvalidSnapshot(f"a RiskSnapshot is expected, got {snapshot!r}")


class Pending:
    """What was in the buffer at one moment, for flush() to wait for."""

    def __init__(self, session: ProducerSession) -> None:
        self._session = session
        self._items = session.held_items()
        self._deferred = session.inside() and not session.empty

    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        while self._items and self._items[-1].arrived:
            if self._items.pop().survivor.lost:
                self._items.clear()
                self._items.append(_LOST)
                return True
        if self._items:
            return self._session.ended or self._items[-1] is _LOST
        return not self._deferred or self._session.empty

    def arrived(self) -> bool:
        """Whether Redis has it all."""
        return self.over() and not self._items and self._session.account().balanced


_LOST: Final = Item(
    RiskSnapshot(trader_id="lost", daily_pnl=0.0, drawdown_pct=0.0, current_equity=0.0, peak_equity=0.0)
)
"""Stands for what cannot be sent at all."""


def _ended(flusher_id: int, retire: Any) -> None:
    process.forget(flusher_id)
    retire()
