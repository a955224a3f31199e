"""RiskProducer: what a trading loop calls. save() appends to a buffer; a flusher thread talks to Redis."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from dataclasses import dataclass
from time import monotonic, time
from types import TracebackType
from typing import Final, Literal, Self
from weakref import WeakSet

import redis
from prometheus_client import CollectorRegistry

from risk_producer import postgres_state
from risk_producer.buffer import Buffer, Item, OnFull
from risk_producer.errors import InvalidSnapshot, ProducerClosed, StreamFull, StreamUnavailable
from risk_producer.keys import Keys, partition_of
from risk_producer.metrics import Reading, collector_of
from risk_producer.outage import Outage
from risk_producer.outbox import Outbox
from risk_producer.settings import Settings
from risk_producer.snapshot import RiskSnapshot
from risk_producer.state import Found, LoadedState, Place
from risk_producer.stream import Claim, TraderStream
from risk_producer.wire import WireSnapshot, decode

log = logging.getLogger("riskstream.producer")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long close(), and the end of the process, wait for the buffer to empty."""

_LINGER_S: Final = 0.002
"""How long a small batch waits to grow, unless a push() waits for it: a thread woken for each snapshot
would cost the trader more than the snapshot."""

_NEVER: Final = 1 << 60


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
    fenced: tuple[str, ...]
    """Traders for which a newer producer has taken over: history goes on, the state is the newer one's."""
    closed: bool


class RiskProducer:
    """Keeps the risk state of traders. Thread-safe; may be used after a fork, by both sides.

    redis_url        Redis with the stream; connects when the first snapshot comes
    client           instead of redis_url: a client of your own; it should have finite timeouts
    partitions       streams that traders are spread over; the same for all producers and workers
    stream_maxlen    entries that a partition's stream may hold
    buffer_size      snapshots that memory may hold
    save_timeout_s   seconds that save() and push() wait for room
    on_full          what save() does when the buffer is full: "block" waits for room, "refuse" answers False
                     at once, "conflate" merges older snapshots of a trader into its newest one
    database_url     where load() asks too; needs psycopg
    persistent       False: keep state in memory only and send nothing
    registry         where the metrics are; default: Prometheus' own
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        client: redis.Redis | None = None,
        partitions: int = 1,
        stream_maxlen: int = 1_000_000,
        buffer_size: int = 512,
        save_timeout_s: float = 5.0,
        on_full: OnFull = "block",
        database_url: str | None = None,
        persistent: bool = True,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if persistent and (redis_url is None) == (client is None):
            raise TypeError("RiskProducer needs one of redis_url and client")
        self._redis_url = redis_url
        self._client = client
        self._partitions = partitions
        self._stream_maxlen = stream_maxlen
        self._buffer_size = buffer_size
        self._save_timeout_s = save_timeout_s
        self._on_full: OnFull = on_full
        self._database_url = database_url
        self._persistent = persistent
        self._begin()
        self._collector = collector_of(registry)
        self._collector.watch(self)
        _producers.add(self)

    @classmethod
    def from_settings(cls, settings: Settings, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with these settings. ConfigurationError where REDIS_URL is missing and needed."""
        return cls(
            settings.require_redis_url() if settings.persistent else None,
            partitions=settings.partitions,
            stream_maxlen=settings.stream_maxlen,
            buffer_size=settings.buffer_size,
            save_timeout_s=settings.save_timeout_s,
            database_url=settings.database_url,
            persistent=settings.persistent,
            registry=registry,
        )

    @classmethod
    def from_env(cls, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with the settings of the environment. Raises ConfigurationError."""
        return cls.from_settings(Settings.load(), registry=registry)

    def _begin(self) -> None:
        """A new life: empty buffer, no epochs, no thread, no connection yet."""
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        """Notified when the flusher has something to do."""
        self._progress = threading.Condition(self._lock)
        """Notified when there may be room in the buffer, or something has arrived in Redis."""
        self._buffer = Buffer(self._buffer_size, self._partitions, self._on_full)
        self._outbox = Outbox(self._buffer, self._lock, self._stream_maxlen)
        self._outage = Outage()
        self._thread: threading.Thread | None = None
        self._stream: TraderStream | None = None
        self._count = Reading()
        self._in_memory = not self._persistent
        """Whether only memory holds what is saved now."""
        self._wake_at = 1
        """Depth of the buffer at which save() wakes the flusher."""
        self._urgent = False
        self._closed = False
        self._stopping = False

    # Saving: in the trader's thread.

    def save(self, snapshot: RiskSnapshot) -> bool:
        """Accept a snapshot and return at once; it goes to Redis in the background, in order.

        Where the buffer is full: see on_full. False: not accepted, and counted as refused; also after
        close(). Whatever state Redis is in, it raises nothing but InvalidSnapshot for what is no snapshot.
        """
        if not isinstance(snapshot, RiskSnapshot):
            raise InvalidSnapshot(f"save() expects a RiskSnapshot, got {snapshot!r}")
        with self._lock:
            if self._accept(snapshot) is not None:
                return True
        return self._wait_for_room(snapshot, monotonic() + self._patience_s) is not None

    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """Accept a snapshot and return when Redis has it. timeout in seconds; default: save_timeout_s.

        StreamFull: there was no room all the time; the snapshot was not accepted.
        StreamUnavailable: Redis did not answer in time; the snapshot stays in memory and goes out later.
        ProducerClosed: after close().
        """
        if not isinstance(snapshot, RiskSnapshot):
            raise InvalidSnapshot(f"push() expects a RiskSnapshot, got {snapshot!r}")
        timeout = self._save_timeout_s if timeout is None else timeout
        deadline = monotonic() + timeout
        item = self._wait_for_room(snapshot, deadline, urgent=True)
        if item is None:
            if self._closed:
                raise ProducerClosed("push() after close()")
            why = self._outage.reason or "the stream is full"
            raise StreamFull(
                f"the buffer stayed full ({self._buffer_size} snapshots) for {timeout:g} s: {why}; "
                "the snapshot was not accepted"
            )
        if not self._persistent:
            return
        with self._lock:
            if self._progress.wait_for(lambda: item.arrived, deadline - monotonic()):
                return
            if self._stream_is_full_for(snapshot) and self._buffer.withdraw(item):
                self._refuse(snapshot)
                raise StreamFull(
                    f"the stream stayed full ({self._stream_maxlen} snapshots) for {timeout:g} s; "
                    "the snapshot was not accepted"
                )
        raise StreamUnavailable(
            f"Redis did not take the snapshot within {timeout:g} s ({self._outage.reason or 'it is busy'}); "
            "it stays in memory and goes out later"
        )

    def _accept(self, snapshot: RiskSnapshot) -> Item | None:
        """Put a snapshot into the buffer. None: no room, or closed. With the lock held."""
        if self._closed:
            return None
        if self._in_memory:
            if not self._persistent:
                self._count_in_memory(snapshot)
                self._buffer.remember(snapshot)
                return Item(snapshot)
            item = self._buffer.put(snapshot)
            if item is not None:
                self._count_in_memory(snapshot)
        else:
            item = self._buffer.put(snapshot)
        if self._buffer.depth >= self._wake_at:
            self._wake()
        return item

    def _wait_for_room(self, snapshot: RiskSnapshot, deadline: float, *, urgent: bool = False) -> Item | None:
        with self._lock:
            while True:
                item = self._accept(snapshot)
                if item is not None:
                    if urgent:
                        self._urgent = True
                        self._wake()
                    return item
                remaining = deadline - monotonic()
                if self._closed or remaining <= 0 or self._on_full == "refuse":
                    self._refuse(snapshot)
                    return None
                self._progress.wait(remaining)

    @property
    def _patience_s(self) -> float:
        return 0.0 if self._on_full == "refuse" else self._save_timeout_s

    def _stream_is_full_for(self, snapshot: RiskSnapshot) -> bool:
        lane = self._buffer.lanes[partition_of(snapshot.trader_id, self._partitions)]
        return not self._outage.under_way and self._outbox.full_for(lane)

    def _count_in_memory(self, snapshot: RiskSnapshot) -> None:
        trader_id = snapshot.trader_id
        self._count.attempts[trader_id] += 1
        self._count.latency_ms[trader_id] = (time() - snapshot.recorded_at.timestamp()) * 1000

    def _refuse(self, snapshot: RiskSnapshot) -> None:
        self._count.refused += 1
        if self._in_memory:
            self._count.attempts[snapshot.trader_id] += 1
            self._count.failures[snapshot.trader_id] += 1

    # Sending: the flusher thread.

    def _wake(self) -> None:
        """Let the flusher look at the buffer; start it if it is not there. With the lock held."""
        self._wake_at = _NEVER
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="risk-producer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter is going down
                self._thread = None
                self._wake_at = 1
                log.critical("Cannot start a thread, snapshots stay in memory: %s", error)
        self._work.notify()

    def _run(self) -> None:
        try:
            while self._work_to_do():
                self._send()
        finally:
            with self._lock:
                self._wake_at = 1

    def _work_to_do(self) -> bool:
        """Wait for something to send, and a little longer for more of it. False: stop."""
        with self._lock:
            while not (self._buffer.depth or self._stopping):
                self._wake_at = 1
                self._work.wait()
            half = max(1, self._buffer.size // 2)
            if self._buffer.depth < half and not (self._urgent or self._stopping):
                self._wake_at = half
                self._work.wait(_LINGER_S)
            self._wake_at = _NEVER
            self._urgent = False
            return not self._stopping

    def _send(self) -> None:
        """One call of Redis, and what follows from its answer."""
        call = self._outbox.next_call(monotonic())
        if call is None:
            self._sleep(self._outbox.wait_s(monotonic()) or 0.0)
            return
        stream = self._connected()
        try:
            if isinstance(call, Claim):
                self._outbox.claimed(stream.claim(call))
            else:
                for trader_id in self._outbox.admitted(call, stream.admit(call), monotonic()):
                    log.critical(
                        "A newer producer has taken over trader %r: this one's snapshots still go into "
                        "its history, but its state is the newer one's",
                        trader_id,
                    )
        except StreamUnavailable as error:
            self._sleep(self._redis_is_away(error))
        else:
            self._redis_answered()

    def _redis_answered(self) -> None:
        with self._lock:
            if self._outage.under_way:
                self._in_memory = False
                self._outage.ends()
            self._progress.notify_all()

    def _redis_is_away(self, error: StreamUnavailable) -> float:
        with self._lock:
            if not self._outage.under_way:
                self._in_memory = True
                for item in self._buffer.items():
                    self._count_in_memory(item.snapshot)
            return self._outage.goes_on(error)

    def _sleep(self, seconds: float) -> None:
        with self._lock:
            self._work.wait_for(lambda: self._stopping, seconds)

    def _connected(self) -> TraderStream:
        if self._stream is None:
            if self._client is not None:
                self._stream = TraderStream(self._client)
            else:
                assert self._redis_url is not None
                self._stream = TraderStream.connect(self._redis_url)
        return self._stream

    # Loading.

    def load(self, trader_id: str) -> LoadedState | None:
        """The newest state of a trader, from memory, Redis, and Postgres (where database_url is given).

        None: there is none, for certain. StateUnknown: nobody could be asked who would know. A state comes
        with `unanswered`: who might know a newer one and did not answer. Without a database_url, an empty
        answer of Redis counts as certain: a Redis that may lose its data needs the database's word.
        """
        with self._lock:
            memory, epoch = self._buffer.newest(trader_id), self._outbox.epoch(trader_id)
            stream = self._connected() if self._persistent else None
        if stream is None:
            return Found(memory, None, None, None, ()).newest(trader_id)
        unanswered: list[tuple[Place, str]] = []
        redis_knows: WireSnapshot | None = None
        postgres_knows: WireSnapshot | None = None
        try:
            payload = stream.latest(Keys(partition_of(trader_id, self._partitions)), trader_id)
            redis_knows = None if payload is None else decode(payload)
        except (StreamUnavailable, InvalidSnapshot) as error:
            unanswered.append(("redis", str(error)))
        if self._database_url is not None and memory is None:
            try:
                postgres_knows = postgres_state.fetch(self._database_url, trader_id)
            except postgres_state.PostgresUnavailable as error:
                unanswered.append(("postgres", str(error)))
        return Found(memory, epoch, redis_knows, postgres_knows, unanswered).newest(trader_id)

    # The end.

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until Redis has all that was accepted before this call. False: not within timeout seconds."""
        with self._lock:
            pending = self._buffer.items()
            if pending:
                self._urgent = True
                self._wake()

            def all_arrived() -> bool:
                while pending and pending[-1].arrived:
                    pending.pop()
                return not pending

            return self._progress.wait_for(all_arrived, timeout)

    def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> bool:
        """Flush, and stop. May be called again. False: some were still in memory after timeout seconds.

        Those are gone when the process ends; they are counted as unsent, and the log says how many.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            self._progress.notify_all()
        if not first:
            return self._count.unsent == 0
        self.flush(timeout)
        with self._lock:
            self._stopping = True
            self._work.notify_all()
            left = self._buffer.items()
            for item in left:
                self._count.unsent += item.merged + 1
                self._count.failures[item.snapshot.trader_id] += item.merged + 1
        if left:
            log.critical("Closed with %d snapshots that Redis does not have", self._count.unsent)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(0.0 if left else 1.0)  # it may hang in a call; it is a daemon
        if self._stream is not None and self._client is None:
            self._stream.close()
        self._collector.retire(self)
        return not left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # How it is.

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
                latency_ms=self._count.latency_ms.copy(),
            )

    def _after_fork_in_child(self) -> None:
        """What is in the buffer is the parent's to send; connections and epochs are the parent's too."""
        closed = self._closed
        remembered = self._buffer
        self._begin()
        self._closed = closed
        if not self._persistent:
            self._buffer = remembered  # nobody else knows
        self._collector.forget()


_producers: WeakSet[RiskProducer] = WeakSet()


def _close_all() -> None:
    for producer in list(_producers):
        producer.close()


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
