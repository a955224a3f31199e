"""ProducerSession: what a producer holds and knows. No network, no threads, no waiting.

It owns one lock, held for moments. Foreign code (a log handler, a finalizer, a signal handler) may call into
it at any time, also from the thread that holds the lock:

- nothing foreign is called with the lock held: messages and the start of a thread are put into `_effects`,
  and run when the lock is free;
- a call that finds its own thread inside puts what it wants into `_deferred`; the outer call does it before
  it gives the lock back.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic, time
from typing import Any, Final, Literal

from risk_producer.contract import rejected as invalid
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import ProducerClosed, StreamFull, StreamUnavailable
from risk_producer.load.sources import Place
from risk_producer.metrics import Reading
from risk_producer.session.backoff import Outage
from risk_producer.session.buffer import Buffer, Item, OnFull
from risk_producer.session.sender import Outbox
from risk_producer.session.waiters import Waiters
from risk_producer.spool.spool import Spool
from risk_producer.transport.requests import Admit, Claim

log = logging.getLogger("riskstream.producer")

LINGER_S: Final = 0.002
"""How long a small batch waits to grow, unless a push() waits for it: a flusher woken for each snapshot
would cost the trader more than the snapshot."""

AWAKE_S: Final = 0.1
"""How long after a batch the flusher looks for more by itself, every LINGER_S. To wake it, a call of the
operating system, would be most of what save() costs."""

STALL_S: Final = 60.0
"""A snapshot that waits for longer is told of, once and each minute again."""

DEFERRED_MAX: Final = 10_000

NEVER: Final = 1 << 60

_making = threading.RLock()
"""Held for the moment in which a session's own lock is made."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a producer is."""

    backend: Literal["postgres", "memory"]
    """memory: Redis is away, or persistence is off."""
    reason: str | None
    """Why the backend is memory, a trader is held back, or the oldest snapshot has waited for too long."""
    stream_full: bool
    buffered: int
    """Snapshots in memory that Redis has not confirmed."""
    buffer_size: int
    oldest_s: float
    """Seconds that the oldest of them has waited; 0: there is none."""
    accepted: int
    """Snapshots that Redis has taken, those merged into others included."""
    refused: int
    invalid: int
    """Snapshots of this process in which a field broke a rule."""
    conflated: int
    unknown: int
    """Snapshots sent, and not answered when close() stopped: Redis may have them."""
    unsent: int
    """Snapshots accepted, and never to be sent: close() stopped before, or they cannot be encoded."""
    spool: str
    """off, on, or why it fails: then snapshots are in memory only."""
    fenced: tuple[str, ...]
    """Traders for which a newer producer has taken over: history goes on, the state is the newer one's."""
    closed: bool


@dataclass(frozen=True, slots=True)
class Account:
    """Where the snapshots are that save() or push() took, or that the spool held; each counted once."""

    saved: int
    """All of them. The others add up to it; a merged snapshot counts where the one is that stands for it."""
    confirmed: int
    held: int
    """In memory, on their way or not."""
    spooled: int
    """Left in the spool at the end."""
    unknown: int
    unsent: int

    @property
    def balanced(self) -> bool:
        """Whether none is missing and none is counted twice."""
        return self.saved == self.confirmed + self.held + self.spooled + self.unknown + self.unsent


@dataclass(frozen=True, slots=True)
class Options:
    """What does not change in a producer's time."""

    partitions: int = 1
    stream_maxlen: int = 1_000_000
    buffer_size: int = 1_024
    save_timeout_s: float = 5.0
    on_full: OnFull = "block"
    persistent: bool = True
    stall_s: float = STALL_S


class _MadeLater:
    """A session's lock, made when it is first needed: gevent may replace what locks are until then."""

    def __get__(self, session: ProducerSession, _: object) -> Any:
        with _making:
            return session.__dict__.setdefault("_lock", threading.RLock())


class ProducerSession:
    """Buffer, identity, counts and health of a producer. Thread-safe, and safe to call from anywhere."""

    _lock = _MadeLater()

    def __init__(self, options: Options, spool: Spool | None = None, *, sync_each: bool = False) -> None:
        """sync_each: each save() waits for the spool's disk."""
        self.options = options
        self._persistent = options.persistent
        self.spool = spool
        self.sync_each = sync_each and spool is not None
        self.on_work: Callable[[bool], None] = _nothing
        """Lets the flusher look at the buffer; True: start it, if it is not there. Waits for nothing."""
        self.waiters = Waiters()
        self.closed = False
        self.ended = False
        """end() was called: what is left is counted, and nothing more is sent."""
        self._deferred: deque[Callable[[], object]] = deque()
        self._effects: deque[Callable[[], object]] = deque()
        self._buffer = Buffer(options.buffer_size, options.partitions, options.on_full)
        self._outbox = Outbox(self._buffer, lambda: self._lock, options.stream_maxlen, spool)
        self._outage = Outage()
        self._count = Reading()
        self._saved = self._spooled = 0
        self._kept: dict[str, tuple[float, datetime]] = {}
        """Of the newest snapshot of each trader that only memory held: since when, and its recorded_at."""
        self._in_memory = not options.persistent
        """Whether only memory holds what is saved now."""
        self._wake_at = 1
        """Depth of the buffer at which save() wakes the flusher."""
        self._urgent = False
        """There is a call that waits for what is in the buffer."""
        self._asleep_from = 0.0
        """When the flusher, as nothing came, goes to sleep until save() wakes it; monotonic."""
        self._close_by: float | None = None
        """When the flusher ends, whatever is left; monotonic. None: never, or when it has sent all."""
        self._look_at = monotonic() + options.stall_s
        """When to look again whether the oldest snapshot has waited for too long."""
        self._asking_since: float | None = None
        self._no_thread: str | None = None
        """Why there is no flusher."""
        self._said: set[str] = set()
        self._later = 0
        """Snapshots among what is deferred."""
        self._replayed: dict[str, Item] = {}
        """The newest snapshot that the spool held of each trader."""
        if spool is not None:
            spool.say = self._say
            replay = spool.replay()
            self._buffer.life = spool.life
            self._outbox.restore(replay)
            self._replayed = {item.snapshot.trader_id: item for item in replay.items}
            self._saved = sum(item.merged + 1 for item in replay.items)

    def child(self) -> ProducerSession:
        """After a fork, in the child: what is in the buffer, and the epochs, are the parent's."""
        if self.spool is not None:
            self.spool.abandon()
            log.warning("This process was forked: the spool is its parent's, snapshots are in memory only")
        session = ProducerSession(self.options)
        session.closed = self.closed
        if not self.options.persistent:
            session._buffer = self._buffer  # there is no other place that knows
        return session

    # Accepting

    def accept(self, snapshot: RiskSnapshot) -> Item | None:
        """Put a snapshot into the buffer. None: there is no room, or the producer is closed."""
        lock = self._lock
        if lock._is_owned():
            return self._accept_later(snapshot)
        with lock:
            item = self._accept(snapshot)
            if self._deferred:
                self._do_deferred()
        if self._effects or self._deferred:
            self._leave()
        return item

    def _accept(self, snapshot: RiskSnapshot) -> Item | None:
        """With the lock held."""
        if self.closed:
            return None
        buffer = self._buffer
        if not self._persistent:
            self._count_in_memory(snapshot)
            return buffer.remember(snapshot)
        if self.spool is not None and not self._spool_has_room(self.spool):
            return None
        now = monotonic()
        item = buffer.put(snapshot, now)
        if item is not None:
            self._saved += 1
            if self.spool is not None:
                self.spool.append(item, self._outbox.epoch_of, buffer.items)
            if self._in_memory:
                self._count_in_memory(snapshot)
        if buffer.depth >= self._wake_at:
            self._wake()
        if now >= self._look_at:
            self._look(now)
        return item

    def loaded(self, snapshot: RiskSnapshot) -> None:
        """load() found this: its last_reset_time is carried on."""
        if snapshot.last_reset_time is not None:
            self._buffer.loaded_resets[snapshot.trader_id] = snapshot.last_reset_time

    def _accept_later(self, snapshot: RiskSnapshot) -> Item | None:
        """From within this session's own thread: the outer call may be anywhere, also in the buffer."""
        room = self._buffer.size - self._buffer.depth - len(self._deferred) - 2
        spool = self.spool
        if spool is not None and spool.failed is None and spool.size >= spool.max_bytes:
            room = 0
        if self.closed or (room < 0 and self.options.persistent):
            return None
        item = Item(snapshot)
        self._later += 1
        self._deferred.append(partial(self._accept_deferred, item))
        return item

    def _accept_deferred(self, item: Item) -> None:
        self._later -= 1
        was_closed, self.closed = self.closed, False  # it was accepted before
        try:
            made = self._accept(item.snapshot)
        finally:
            self.closed = was_closed
        if made is None:  # which the reckoning excludes
            self._saved += 1
            self._count.unsent += 1
            item.done = item.lost = True
        else:
            item.into = made

    def _spool_has_room(self, spool: Spool) -> bool:
        if spool.size >= spool.max_bytes and self.options.on_full == "conflate":
            self._buffer.conflate()
        return spool.has_room(self._buffer.items, self._outbox.epoch_of)

    def refuse(self, snapshot: RiskSnapshot) -> None:
        """Count a snapshot for which there was no room."""
        self._do(partial(self._refuse, snapshot))

    def _refuse(self, snapshot: RiskSnapshot) -> None:
        self._count.refused += 1
        if self._in_memory:
            self._count.attempts[snapshot.trader_id] += 1
            self._count.failures[snapshot.trader_id] += 1

    def reject(self) -> None:
        """Count a snapshot that save() answers False to because a field breaks a rule."""
        self._do(self._reject)

    def _reject(self) -> None:
        self._count.refused += 1

    def cancel(self, item: Item) -> bool:
        """push() gives up: take the snapshot back. False: it is on its way, or the stream is not full."""
        lock = self._lock
        if lock._is_owned():
            return False
        with lock:
            lane = self._buffer.lanes[partition_of(item.snapshot.trader_id, self.options.partitions)]
            full = self._outbox.full_for(lane) and not self._outage.under_way
            cancelled = full and self._buffer.withdraw(item)
            if cancelled:
                self._saved -= 1
                self._refuse(item.snapshot)
        self._leave()
        return cancelled

    def hurry(self) -> None:
        """A call waits for what is in the buffer: do not let the batch grow."""
        self._do(self._hurry)

    def _hurry(self) -> None:
        if self._buffer.depth:
            self._urgent = True
            self._wake()

    def held_items(self) -> list[Item]:
        """What is in the buffer now, and what another thread has accepted and was about to put there."""
        within = self.inside()
        with self._lock:
            if self._deferred and not within:
                self._do_deferred()
            items = self._buffer.items()
        self._leave()
        return items

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send, nor to be put into the buffer."""
        return not self._buffer.depth and not self._later

    def inside(self) -> bool:
        """Whether this thread is within a call of this session, and so cannot wait for it."""
        return bool(self._lock._is_owned())

    def why_refused(self, timeout_s: float) -> Exception:
        """What push() raises when there was no room."""
        if self.closed:
            return ProducerClosed("push() after close(): the snapshot was not accepted")
        return StreamFull(
            f"the buffer stayed full ({self.options.buffer_size} snapshots) for {timeout_s:g} s "
            f"({self._outage.reason or 'the stream is full'}); the snapshot was not accepted"
        )

    def why_late(self, item: Item, timeout_s: float) -> Exception:
        """What push() raises when Redis does not have the item in time. Takes it back, if the stream is full
        and it is not on its way."""
        if self.cancel(item):
            return StreamFull(
                f"the stream stayed full ({self.options.stream_maxlen} snapshots) for {timeout_s:g} s; "
                "the snapshot was not accepted"
            )
        if self.ended:
            return StreamUnavailable("the producer was closed before Redis took the snapshot")
        why = self._outbox.held_reason(item.snapshot.trader_id) or self._outage.reason or "it is busy"
        return StreamUnavailable(
            f"Redis did not take the snapshot within {timeout_s:g} s ({why}); "
            "it stays here and goes out later"
        )

    # What the flusher asks

    def rest_s(self, now: float, lingered: bool) -> float | None:
        """How long the flusher may wait for more to send. 0: not at all; None: until it is woken.

        lingered: it has waited for a small batch to grow.
        """
        half = max(1, self._buffer.size // 2)
        with self._lock:
            depth = self._buffer.depth
            wait: float | None
            if depth >= half or self._urgent or self.closed or (depth and lingered):
                self._wake_at = NEVER
                self._urgent = False
                self._asleep_from = now + AWAKE_S
                wait = 0.0
            else:
                asleep = not depth and now >= self._asleep_from
                self._wake_at = 1 if asleep else half
                wait = None if asleep else LINGER_S
            if self._deferred:
                self._do_deferred()
        self._leave()
        return wait

    @property
    def depth(self) -> int:
        """Snapshots in the buffer."""
        return self._buffer.depth

    def pause_ends(self, now: float, depth: int | None) -> bool:
        """Whether a flusher that pauses should look again before its time.

        depth: that of the buffer when the pause began, where what comes new could be sent; else None.
        """
        with self._lock:
            if self._due(now):
                return True
            if depth is None or not self._outbox.open:
                return False
            self._wake_at = self._buffer.depth + 1
            return self._urgent or self._buffer.depth > depth

    def is_due_to_end(self, now: float) -> bool:
        """Whether the flusher has done what it was closed for."""
        with self._lock:
            return self._due(now)

    def _due(self, now: float) -> bool:
        if not self.closed:
            return False
        return not self._buffer.depth or (self._close_by is not None and now >= self._close_by)

    def next_request(self, now: float) -> Claim | Admit | None:
        """What to ask of Redis. None: nothing just now, see wait_s()."""
        request = self._outbox.next_call(now)
        self._asking_since = None if request is None else now
        self._tell_notes()
        return request

    def wait_s(self, now: float) -> float:
        """Seconds until next_request() may have something, when it had nothing."""
        return self._outbox.wait_s(now)

    def on_reply(self, request: Claim | Admit, reply: Any, now: float) -> None:
        """Redis answered."""
        self._asking_since = None
        if self.ended:
            return
        if isinstance(request, Claim):
            self._outbox.claimed(request, reply, now)
        else:
            self._outbox.admitted(request, reply, now)
        with self._lock:
            if self._outage.under_way:
                self._in_memory = False
                took_s = self._outage.record_success(now)
                self._say(logging.WARNING, "Redis can be used again after %.1f s", took_s)
            if self._deferred:
                self._do_deferred()
        self._tell_notes()

    def on_error(self, error: BaseException, now: float) -> float:
        """Asking failed, or anything else in the flusher. Returns the seconds until the next try."""
        self._asking_since = None
        if self.ended:
            return 0.0
        expected = isinstance(error, StreamUnavailable)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        with self._lock:
            begins = not self._outage.under_way
            if begins:
                self._in_memory = True
                for item in self._buffer.items():
                    self._count_in_memory(item.snapshot)
            wait_s = self._outage.record_failure(reason, now)
            if begins and expected:
                self._say(logging.CRITICAL, "Redis cannot be used, snapshots stay in memory: %s", reason)
            elif begins:
                self._say(
                    logging.CRITICAL,
                    "Sending failed, snapshots stay in memory and are sent again: %s",
                    reason,
                    exc_info=error,
                )
            if self._deferred:
                self._do_deferred()
        self._leave()
        return wait_s

    def look(self, now: float) -> None:
        """Say it, where the oldest snapshot has waited for too long."""
        if now >= self._look_at:
            with self._lock:
                self._look(now)
            self._leave()

    def no_thread(self, error: BaseException) -> None:
        """The flusher could not be started; the next save() tries again."""
        with self._lock:
            self._wake_at = 1
            self._no_thread = f"a thread cannot be started: {error}"
            self._say(logging.CRITICAL, "Cannot start a thread, snapshots stay in memory: %s", error)
        self._leave()

    def thread_runs(self) -> None:
        """The flusher has begun."""
        self._no_thread = None

    def thread_ended(self) -> None:
        """The flusher has ended: the next save() starts another."""
        self._wake_at = 1

    def sync_spool(self, *, now: bool) -> None:
        """fsync, if it is time."""
        if self.inside():
            return
        fd = None
        try:
            with self._lock:
                fd = None if self.spool is None else self.spool.duplicate_to_sync(now=now)
            if fd is not None:
                os.fsync(fd)
        except OSError as error:
            with self._lock:
                if self.spool is not None:
                    self.spool.fail(error)
            self._leave()
        finally:
            if fd is not None:
                os.close(fd)

    # The end

    def request_close(self, close_by: float | None) -> None:
        """Accept nothing more; the flusher sends what is there, until then at the most (monotonic)."""
        self.closed = True
        self._do(partial(self._request_close, close_by))
        self.waiters.wake()

    def _request_close(self, close_by: float | None) -> None:
        known = self._close_by
        self._close_by = close_by if known is None or close_by is None else min(known, close_by)
        if not self.ended and self._buffer.depth:
            self._urgent = True
        self._wake(start=bool(self._buffer.depth) and not self.ended)

    def end(self) -> bool:
        """Count what is left, and say it. False: it was done before."""
        with self._lock:
            if self.ended:
                return False
            self.closed = True
            if self._deferred:
                self._do_deferred()
            self._count_left()
            self.ended, self.spool, self._outbox.spool = True, None, None
        self._leave()
        return True

    def _count_left(self) -> None:
        left = self._buffer.items()
        spool = self.spool  # let go of when all is counted: an end that was interrupted is repeated
        self.sync_each = False
        if spool is not None:
            spool.close(empty=not left)
            if spool.failed is None:
                if left:
                    self._say(
                        logging.WARNING,
                        "Closed with %d snapshots in the spool, to be sent next time",
                        len(left),
                    )
                self._spooled = sum(item.merged + 1 for item in left)
                return
        on_their_way = self._outbox.on_their_way()
        unknown = unsent = 0
        failures: Counter[str] = Counter()
        for item in left:
            if item in on_their_way:
                unknown += item.merged + 1
            else:
                unsent += item.merged + 1
            failures[item.snapshot.trader_id] += item.merged + 1
        # Counted when nothing more can fail: an end that was interrupted is repeated.
        self._count.failures.update(failures)
        self._count.unknown += unknown
        self._count.unsent += unsent
        if left:
            self._say(
                logging.CRITICAL,
                "Closed with %d snapshots that were never sent, and %d that were sent and not answered, "
                "which Redis may have or not; %d are confirmed (%s)",
                unsent,
                unknown,
                self._outbox.accepted,
                self._why_waiting(left[0]),
            )

    def account(self) -> Account:
        """Where everything is that was accepted."""
        with self._lock:
            return self._account()

    def _account(self) -> Account:
        counted = self.ended  # what was left is in the other numbers
        return Account(
            saved=self._saved,
            confirmed=self._outbox.accepted,
            held=0 if counted else sum(item.merged + 1 for item in self._buffer.items()),
            spooled=self._spooled,
            unknown=self._count.unknown,
            unsent=self._count.unsent + self._outbox.lost,
        )

    def all_confirmed(self) -> bool:
        """Whether Redis has everything that was accepted."""
        with self._lock:
            return not self._deferred and self._saved == self._outbox.accepted

    # How it is

    def health(self) -> Health:
        """How it is just now. Asks no other, and never raises."""
        now = monotonic()
        with self._lock:
            oldest = None if self.ended else self._buffer.oldest()
            return Health(
                backend="memory" if self._in_memory else "postgres",
                reason=self._reason(oldest, now),
                stream_full=self._outbox.full,
                buffered=self._buffer.depth + self._later,
                buffer_size=self._buffer.size,
                oldest_s=0.0 if oldest is None else now - oldest.since,
                accepted=self._outbox.accepted,
                refused=self._count.refused,
                invalid=invalid.total(),
                conflated=self._buffer.conflated,
                unknown=self._count.unknown,
                unsent=self._count.unsent + self._outbox.lost,
                spool="off" if self.spool is None else self.spool.failed or "on",
                fenced=tuple(sorted(self._outbox.fenced)),
                closed=self.closed,
            )

    def reading(self) -> Reading:
        """What the metrics show."""
        now = monotonic()
        with self._lock:
            oldest = None if self.ended else self._buffer.oldest()
            return Reading(
                accepted=self._outbox.accepted,
                refused=self._count.refused,
                conflated=self._buffer.conflated,
                unknown=self._count.unknown,
                unsent=self._count.unsent + self._outbox.lost,
                outages=self._outage.count,
                buffered=0 if self.ended else self._buffer.depth,
                oldest_s=0.0 if oldest is None else now - oldest.since,
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

    @property
    def confirmed(self) -> int:
        """Snapshots that Redis has, those merged into others included."""
        return self._outbox.accepted

    @property
    def in_memory(self) -> bool:
        """Whether only memory holds what is saved now."""
        return self._in_memory

    def held_reason(self, trader_id: str) -> str | None:
        """Why a trader is held back; None: it is not."""
        return self._outbox.held_reason(trader_id)

    @property
    def outage_reason(self) -> str | None:
        """Why Redis cannot be used; None: it can, as far as is known."""
        return self._outage.reason

    def in_hand(self, trader_id: str) -> tuple[RiskSnapshot | None, int | None, Place]:
        """What load() finds here: the newest snapshot, its epoch, where it is."""
        with self._lock:
            newest, replayed = self._buffer.newest(trader_id), self._replayed.get(trader_id)
            if replayed is not None and newest is replayed.snapshot:
                return newest, self._outbox.epoch_of(replayed.life, trader_id), "spool"
            return newest, self._outbox.epoch(trader_id), "memory"

    def keys_of(self, trader_id: str) -> Keys:
        """The keys of a trader's partition."""
        return Keys(partition_of(trader_id, self.options.partitions))

    def _reason(self, oldest: Item | None, now: float) -> str | None:
        if not self.options.persistent:
            return "persistence is off"
        if oldest is not None and now - oldest.since >= self.options.stall_s:
            return (
                f"The oldest snapshot has waited for {now - oldest.since:.0f} s: {self._why_waiting(oldest)}"
            )
        if self._outage.reason is not None:
            return self._outage.reason
        if self._no_thread is not None:
            return self._no_thread
        held = list(self._outbox.held.items())
        return f"trader {held[0][0]!r} is held back: {held[0][1]}" if held else None

    def _why_waiting(self, item: Item) -> str:
        asking = self._asking_since
        return (
            self._outbox.held_reason(item.snapshot.trader_id)
            or self._outage.reason
            or self._no_thread
            or ("the stream is full: is a worker running?" if self._outbox.full else None)
            or ("Redis has not answered yet" if asking is not None else "more comes than Redis takes")
        )

    def _look(self, now: float) -> None:
        """With the lock held."""
        oldest = None if self.ended else self._buffer.oldest()
        stall_s = self.options.stall_s
        if oldest is None or now - oldest.since < stall_s:
            self._look_at = (now if oldest is None else oldest.since) + stall_s
            return
        self._look_at = now + 60.0
        self._say(
            logging.CRITICAL,
            "The oldest snapshot has waited for %.0f s: %s",
            now - oldest.since,
            self._why_waiting(oldest),
        )

    def _count_in_memory(self, snapshot: RiskSnapshot) -> None:
        self._count.attempts[snapshot.trader_id] += 1
        self._kept[snapshot.trader_id] = (time(), snapshot.recorded_at)

    # The lock

    def _wake(self, *, start: bool = True) -> None:
        """With the lock held."""
        if start:
            self._wake_at = NEVER
        self.on_work(start)

    def _do(self, operation: Callable[[], object]) -> None:
        """An operation with the lock held; later, where this thread is inside already."""
        lock = self._lock
        if lock._is_owned():
            if len(self._deferred) < DEFERRED_MAX:
                self._deferred.append(operation)
            return
        with lock:
            operation()
            if self._deferred:
                self._do_deferred()
        self._leave()

    def _do_deferred(self) -> None:
        """With the lock held, by the outer call."""
        while self._deferred:
            self._deferred.popleft()()

    def after(self, effect: Callable[[], object]) -> None:
        """Have something done as soon as the lock is free, by the thread that holds it."""
        self._effects.append(effect)
        if not self.inside():
            self._leave()

    def _say(self, level: int, text: str, *arguments: object, exc_info: BaseException | None = None) -> None:
        """A line for the log, written when the lock is free."""
        self._effects.append(partial(log.log, level, text, *arguments, exc_info=exc_info))

    def say_once(self, text: str) -> None:
        """A critical line for the log, the first time only."""
        if text not in self._said:
            self._said.add(text)
            self._say(logging.CRITICAL, "%s", text)
            self._leave()

    def _tell_notes(self) -> None:
        notes = self._outbox.notes
        while notes:
            note = notes.popleft()
            self._say(logging.CRITICAL if note.critical else logging.WARNING, "%s", note.text)
        self._leave()

    def _leave(self) -> None:
        """The lock is free again: do what could not be done under it."""
        while self._effects or self._deferred:
            lock = self._lock
            if lock._is_owned():
                return  # the outer call will
            if self._deferred:
                with lock:
                    self._do_deferred()
                continue
            try:
                effect = self._effects.popleft()
            except IndexError:
                return
            try:
                effect()
            except Exception:  # noqa: BLE001, S112  the log's own fault: no reason to lose a snapshot
                continue


def _nothing(_start: bool) -> None:
    """For a session that has no flusher."""
