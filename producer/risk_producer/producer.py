"""RiskProducer: what a trading loop calls. save() appends to a buffer; a flusher thread talks to Redis."""

from __future__ import annotations

import threading
from time import monotonic
from types import TracebackType
from typing import Final, Self

from risk_producer import postgres_state
from risk_producer.bound import BoundTrader, checked_trader_id
from risk_producer.buffer import Item
from risk_producer.core import CLOSE_TIMEOUT_S, LINGER_S, NEVER, Pending, ProducerCore, check, log
from risk_producer.errors import InvalidSnapshot, StreamUnavailable
from risk_producer.snapshot import RiskSnapshot
from risk_producer.state import Found, LoadedState, Place
from risk_producer.stream import Claim, TraderStream
from risk_producer.wire import WireSnapshot, decode

AWAKE_S: Final = 0.1
"""How long after a batch the flusher looks for more by itself, every LINGER_S. To wake it, a call of the
operating system, would be most of what save() costs."""


class RiskProducer(ProducerCore):
    """Keeps the risk state of traders. Thread-safe; after a fork both sides may go on."""

    def _begin(self) -> None:
        super()._begin()
        self._work = threading.Condition(self._lock)
        """Notified when the flusher has something to do."""
        self._progress = threading.Condition(self._lock)
        """Notified when there may be room in the buffer, or something has arrived in Redis."""
        self._asleep_from = 0.0
        """When the flusher, as nothing came, goes to sleep until save() wakes it; monotonic."""
        self._thread: threading.Thread | None = None
        self._stream: TraderStream | None = None

    # Saving: in the trader's thread.

    def save(self, snapshot: RiskSnapshot) -> bool:
        """Accept a snapshot and return at once; it goes to Redis in the background, in order.

        Where the buffer is full: see on_full. False: not accepted, and counted as refused; also after
        close(). Whatever state Redis is in, it raises nothing but InvalidSnapshot for what is no snapshot.
        """
        check(snapshot)
        with self._lock:
            accepted = self._accept(snapshot) is not None
        if not accepted:
            deadline = monotonic() + self._save_timeout_s
            accepted = self._wait_for_room(snapshot, deadline) is not None
        if self._sync_each and accepted:
            self._sync_spool(now=True)
        return accepted

    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """Accept a snapshot and return when Redis has it. timeout in seconds; default: save_timeout_s.

        StreamFull: there was no room all the time; the snapshot was not accepted.
        StreamUnavailable: Redis did not answer in time; the snapshot stays in memory and goes out later.
        ProducerClosed: after close(); the snapshot was not accepted.
        """
        check(snapshot)
        timeout = self._save_timeout_s if timeout is None else timeout
        deadline = monotonic() + timeout
        item = self._wait_for_room(snapshot, deadline, urgent=True)
        if item is None:
            raise self._why_refused(timeout)
        with self._lock:
            arrived = self._progress.wait_for(lambda: item.arrived, max(0.0, deadline - monotonic()))
        if not arrived:
            raise self._why_late(item, timeout)

    def bind(self, trader_id: str) -> BoundTrader:
        """A handle for one trader, which need not name itself each time."""
        return BoundTrader(self, trader_id)

    def _wait_for_room(self, snapshot: RiskSnapshot, deadline: float, *, urgent: bool = False) -> Item | None:
        """Accept a snapshot as soon as there is room; None, and counted as refused: there was none."""
        with self._lock:
            while True:
                item = self._accept(snapshot)
                if item is not None:
                    if urgent and not item.done:
                        self._urgent = True
                        self._wake()
                    return item
                remaining = deadline - monotonic()
                if self._closed or remaining <= 0 or self._on_full == "refuse":
                    self._refuse(snapshot)
                    return None
                self._progress.wait(remaining)

    # Sending: in the flusher thread.

    def _wake(self) -> None:
        self._wake_at = NEVER
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
            while self._wait_for_work():
                self._send()
                if self._spool is not None:
                    self._sync_spool(now=False)
        finally:
            with self._lock:
                self._wake_at = 1

    def _wait_for_work(self) -> bool:
        """Wait for something to send, and a little longer for more of it. False: stop."""
        with self._lock:
            while self._buffer.depth < self._half() and not (self._urgent or self._stopping):
                asleep = not self._buffer.depth and monotonic() >= self._asleep_from
                self._wake_at = 1 if asleep else self._half()
                self._work.wait(None if asleep else LINGER_S)
                if self._buffer.depth and not asleep:
                    break
            self._wake_at = NEVER
            self._urgent = False
            self._asleep_from = monotonic() + AWAKE_S
            return not self._stopping

    def _send(self) -> None:
        """One call of Redis, and what follows from its answer."""
        call = self._outbox.next_call(monotonic())
        if call is None:
            self._sleep(self._outbox.wait_s(monotonic()))
            return
        stream = self._connected()
        try:
            if isinstance(call, Claim):
                self._outbox.claimed(call, stream.claim(call))
            else:
                self._was_admitted(call, stream.admit(call))
        except StreamUnavailable as error:
            with self._lock:
                wait_s = self._redis_is_away(error)
            self._sleep(wait_s)
        else:
            with self._lock:
                self._redis_answered()
                self._progress.notify_all()

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

        None: there is none, for certain. StateUnknown: somebody who would know did not answer. A state comes
        with `unanswered`: who might know a newer one and did not answer. Without a database_url, an empty
        answer of Redis counts as certain: where Redis may lose its data, give the database's URL.
        InvalidSnapshot: trader_id is no name of a trader.
        """
        trader_id = checked_trader_id(trader_id)
        with self._lock:
            memory, epoch, place = self._in_hand(trader_id)
            stream = self._connected() if self._persistent else None
        if stream is None:
            return Found(memory, epoch, place).newest(trader_id)
        unanswered: list[tuple[Place, str]] = []
        in_redis: WireSnapshot | None = None
        in_postgres: WireSnapshot | None = None
        try:
            payload = stream.latest(self._keys_of(trader_id), trader_id).payload
            in_redis = None if payload is None else decode(payload)
        except (StreamUnavailable, InvalidSnapshot) as error:
            unanswered.append(("redis", str(error)))
        if self._database_url is not None and (memory is None or in_redis is None):
            try:
                in_postgres = postgres_state.fetch(self._database_url, trader_id)
            except postgres_state.PostgresUnavailable as error:
                unanswered.append(("postgres", str(error)))
        return self._loaded(Found(memory, epoch, place, in_redis, in_postgres, unanswered).newest(trader_id))

    # The end.

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until Redis has all that was accepted before this call. False: not within timeout seconds."""
        with self._lock:
            pending = Pending(self._buffer.items())
            if pending.arrived():
                return True
            self._urgent = True
            self._wake()
            return self._progress.wait_for(pending.arrived, timeout)

    def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> bool:
        """Flush, and stop. May be called again. False: some were still in memory after timeout seconds.

        Those are gone when the process ends; they are counted as unsent, and the log says how many.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            self._progress.notify_all()
        if not first:
            return self._buffer.depth == 0
        sent = self.flush(timeout)
        with self._lock:
            self._stopping = True
            self._work.notify_all()
        if self._thread is not None:
            self._thread.join(1.0 if sent else 0.1)  # a daemon: it may hang in a call
        with self._lock:
            sent = self._count_unsent()
        if self._stream is not None and self._client is None:
            self._stream.close()
        self._collector.retire(self)
        return sent

    def _end(self, deadline: float) -> None:
        self.close(max(0.0, deadline - monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
