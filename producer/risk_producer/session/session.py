"""ProducerSession: what a producer holds and decides. No network, no threads, no waiting.

It owns one lock, held for moments, and may be called at any time, also from the thread that holds the lock:
see CriticalSection.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from types import MappingProxyType

from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.rejected import invalid_total
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import ProducerClosed, StreamFull, StreamUnavailable
from risk_producer.item import Item, State
from risk_producer.session.buffer import Buffer
from risk_producer.session.counts import Counts, MetricsSample
from risk_producer.session.health import Diagnosis, Health, SnapshotTotals
from risk_producer.session.local import LocalState
from risk_producer.session.options import Options
from risk_producer.session.outages import Outages
from risk_producer.session.section import CriticalSection, log
from risk_producer.session.sender import Sender
from risk_producer.session.waiters import Waiters
from risk_producer.session.wakeup import NEVER, Wakeup
from risk_producer.spool.spool import Spool
from risk_producer.transport.requests import Admission, NotReplicated, Reply, Request


class ProducerSession:
    """Buffer, identity, counts and health of a producer. Thread-safe, and safe to call from anywhere."""

    def __init__(self, options: Options, spool: Spool | None = None, *, sync_each: bool = False) -> None:
        """sync_each: each save() waits for the spool's disk."""
        self.options = options
        self._persistent = options.persistent
        self.spool = spool
        self.sync_each = sync_each and spool is not None
        self.on_work: Callable[[bool], None] = _no_flusher
        """Lets the flusher look at the buffer; True: start it, if it is not there. Waits for nothing."""
        self.waiters = Waiters()
        self.section = CriticalSection()
        self.closed = False
        self.ended = False
        """end() was called: what is left is counted, and nothing more is sent."""
        self._keyspace = Keyspace(options.namespace)
        self._buffer = Buffer(options.buffer_size, options.partitions, options.on_full, self._keyspace)
        self._outages = Outages(options.partitions)
        self._sender = Sender(
            self._buffer, lambda: self.section.lock, options.stream_maxlen, spool, self._outages
        )
        self._diagnosis = Diagnosis(options, self._sender, self._outages)
        self._asked: tuple[Sequence[Request], float] | None = None
        """The round that Redis has not answered, and when it was made; monotonic."""
        self.asks_partitions = True
        """Whether the flusher asks how many partitions there are before it sends the first batch."""
        self._wakeup = Wakeup(options.buffer_size)
        self._counts = Counts()
        self._in_memory = not options.persistent
        """Whether only memory holds what is saved now, at least of the partitions that are away."""
        self._close_by: float | None = None
        """When the flusher ends, whatever is left; monotonic. None: never, or when it has sent all."""
        self._check_stall_at = monotonic() + options.stall_s
        """When to check again whether the oldest snapshot has waited for too long; monotonic."""
        self._logged_once: set[str] = set()
        self._deferred_items = 0
        """Snapshots that are accepted, and deferred: not yet in the buffer."""
        self._replayed: dict[str, Item] = {}
        """The newest snapshot that the spool held of each trader."""
        if spool is not None:
            spool.log = self.section.log
            replay = spool.replay()
            self._buffer.incarnation = spool.incarnation
            self._sender.restore(replay)
            self._replayed = {item.snapshot.trader_id: item for item in replay.items}
            self._counts.saved = sum(item.merged + 1 for item in replay.items)

    def child(self) -> ProducerSession:
        """After a fork, in the child: what is in the buffer, and the epochs, are the parent's."""
        if self.spool is not None:
            self.spool.abandon()
            log.warning("This process was forked: the spool is its parent's, snapshots are in memory only")
        session = ProducerSession(self.options)
        session.closed = self.closed
        session.divide(self._buffer.partitioning, monotonic())
        if not self.options.persistent:
            session._buffer = self._buffer  # there is no other place that knows
        return session

    # Accepting

    def accept(self, snapshot: RiskSnapshot) -> Item | None:
        """Put a snapshot into the buffer. None: there is no room, or the producer is closed."""
        section = self.section
        lock = section.lock
        if lock._is_owned():
            return self._accept_later(snapshot)
        with lock:
            item = self._accept(snapshot)
            if section.deferred:
                section.run_deferred()
        if section.effects or section.deferred:
            section.leave()
        return item

    def _accept(self, snapshot: RiskSnapshot) -> Item | None:
        """Called with the lock held."""
        if self.closed:
            return None
        buffer = self._buffer
        if not self._persistent:
            self._counts.add_in_memory(snapshot)
            return buffer.remember(snapshot)
        if self.spool is not None and not self._spool_has_room(self.spool):
            return None
        now = monotonic()
        item = buffer.put(snapshot, now)
        if item is not None:
            self._counts.saved += 1
            if self.spool is not None:
                self.spool.append(item, self._sender.epoch_of, buffer.items)
            if self._in_memory and self.in_memory_for(snapshot.trader_id):
                self._counts.add_in_memory(snapshot)
        if buffer.depth >= self._wakeup.depth:
            self._wake()
        if now >= self._check_stall_at:
            self._check_stall(now)
        return item

    def _accept_later(self, snapshot: RiskSnapshot) -> Item | None:
        """From the thread that holds the lock: the outer call may be anywhere, also in the buffer."""
        section = self.section
        room = self._buffer.size - self._buffer.depth - len(section.deferred) - 2
        spool = self.spool
        if spool is not None and spool.failed is None and spool.size >= spool.max_bytes:
            room = 0
        if self.closed or (room < 0 and self.options.persistent):
            return None
        item = Item(snapshot)
        self._deferred_items += 1
        section.deferred.append(partial(self._accept_deferred, item))
        return item

    def _accept_deferred(self, item: Item) -> None:
        self._deferred_items -= 1
        was_closed, self.closed = self.closed, False  # it was accepted before
        try:
            made = self._accept(item.snapshot)
        finally:
            self.closed = was_closed
        if made is None:  # which the reckoning of the room excludes
            self._counts.saved += 1
            self._counts.unsent += 1
            item.state = State.LOST
        else:
            item.into, item.state = made, State.MERGED

    def _spool_has_room(self, spool: Spool) -> bool:
        if spool.size >= spool.max_bytes and self.options.on_full == "conflate":
            self._buffer.conflate()
        return spool.has_room(self._buffer.items, self._sender.epoch_of)

    def loaded(self, snapshot: RiskSnapshot) -> None:
        """load() found this snapshot: its last_reset_time is carried on."""
        if snapshot.last_reset_time is not None:
            self._buffer.loaded_resets[snapshot.trader_id] = snapshot.last_reset_time

    def reject(self, snapshot: RiskSnapshot) -> None:
        """Count a snapshot for which there was no room."""
        self.section.run(partial(self._reject, snapshot))

    def _reject(self, snapshot: RiskSnapshot) -> None:
        self._counts.add_rejected(snapshot, in_memory=self.in_memory_for(snapshot.trader_id))

    def reject_invalid(self) -> None:
        """Count a snapshot that save() answers False to because a field breaks a rule."""
        self.section.run(self._reject_invalid)

    def _reject_invalid(self) -> None:
        self._counts.rejected += 1

    def cancel(self, item: Item) -> bool:
        """push() gives up: take the snapshot back. False: it is on its way, or the stream is not full."""
        section = self.section
        if section.is_held():
            return False
        with section.lock:
            queue = self._buffer.queue_of(item.snapshot.trader_id)
            full = self._sender.full_for(queue) and not self._outages.is_away(queue.keys.partition)
            cancelled = full and self._buffer.cancel(item)
            if cancelled:
                self._counts.saved -= 1
                self._reject(item.snapshot)
        section.leave()
        return cancelled

    def hurry(self) -> None:
        """A call waits for what is in the buffer: do not let the batch grow."""
        self.section.run(self._hurry)

    def _hurry(self) -> None:
        if self._buffer.depth:
            self._wakeup.urgent = True
            self._wake()

    def pending(self) -> list[Item]:
        """What is in the buffer now, and what another thread has accepted and was about to put there."""
        section = self.section
        within = section.is_held()
        with section.lock:
            if section.deferred and not within:
                section.run_deferred()
            items = self._buffer.items()
        section.leave()
        return items

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send, nor to be put into the buffer."""
        return not self._buffer.depth and not self._deferred_items

    def no_room_error(self, timeout_s: float) -> Exception:
        """What push() raises when there was no room."""
        if self.closed:
            return ProducerClosed("push() after close(): the snapshot was not accepted")
        return StreamFull(
            f"the buffer stayed full ({self.options.buffer_size} snapshots) for {timeout_s:g} s "
            f"({self._outages.reason or 'the stream is full'}); the snapshot was not accepted"
        )

    def late_error(self, item: Item, timeout_s: float) -> Exception:
        """What push() raises when Redis does not have the item in time. Cancels the item, if the stream is
        full and it is not on its way."""
        if self.cancel(item):
            return StreamFull(
                f"the stream stayed full ({self._sender.cap} snapshots) for {timeout_s:g} s; "
                "the snapshot was not accepted"
            )
        if self.ended:
            return StreamUnavailable("the producer was closed before Redis took the snapshot")
        trader_id = item.snapshot.trader_id
        why = self._sender.held_reason(trader_id) or self._sender.outage_reason(trader_id) or "it is busy"
        return StreamUnavailable(
            f"Redis did not take the snapshot within {timeout_s:g} s ({why}); "
            "the snapshot stays in memory and is sent later"
        )

    # What the flusher asks

    def rest_s(self, now: float, lingered: bool) -> float | None:
        """How long the flusher may wait for more to send. 0: not at all; None: until it is woken.

        lingered: it has waited for a small batch to grow.
        """
        section = self.section
        with section.lock:
            depth = self._buffer.depth
            wait_s = self._wakeup.rest_s(now, depth, at_once=self.closed or bool(depth and lingered))
            if section.deferred:
                section.run_deferred()
        section.leave()
        return wait_s

    @property
    def depth(self) -> int:
        """Snapshots in the buffer."""
        return self._buffer.depth

    def pause_ends(self, now: float, depth: int | None) -> bool:
        """Whether a flusher that pauses should look again before its time.

        depth: that of the buffer when the pause began, where what comes new could be sent; else None.
        """
        with self.section.lock:
            if self._due_to_end(now):
                return True
            if depth is None or not self._sender.open:
                return False
            self._wakeup.depth = self._buffer.depth + 1
            return self._wakeup.urgent or self._buffer.depth > depth

    def is_due_to_end(self, now: float) -> bool:
        """Whether the flusher has done what it was closed for."""
        with self.section.lock:
            return self._due_to_end(now)

    def _due_to_end(self, now: float) -> bool:
        if not self.closed:
            return False
        return not self._buffer.depth or (self._close_by is not None and now >= self._close_by)

    def next_requests(self, now: float) -> Sequence[Request]:
        """The next round of requests to Redis, each of another partition; one that is away is alone.

        Empty: nothing just now, see wait_s().
        """
        requests = self._sender.next_requests(now)
        self._diagnosis.awaiting_reply = bool(requests)
        self._asked = (requests, now) if requests else None
        if self._sender.failed and not self.ended:
            self._record_failures(self._sender.failed, 0.0, now)
        self._log_notes()
        return requests

    def keys_of_all(self) -> list[Keys]:
        """The keys of all partitions that traders are or were divided into."""
        with self.section.lock:
            return [queue.keys for queue in self._buffer.queues.values()]

    def is_away(self, partition: int) -> bool:
        """Whether the last request of a partition failed."""
        return self._outages.is_away(partition)

    def is_doubtful(self, partition: int) -> bool:
        """Whether a partition is away, or on a server that did not answer."""
        return self._outages.is_doubtful(partition)

    def wait_s(self, now: float) -> float:
        """Seconds until next_requests() may have something, when it had nothing."""
        return self._sender.wait_s(now)

    def on_replies(
        self,
        replies: Sequence[Reply | StreamUnavailable],
        now: float,
        away_too: Mapping[int, StreamUnavailable] = MappingProxyType({}),
    ) -> None:
        """Redis answered the round, or why not, request by request.

        away_too: partitions that were not asked, and are on a server that did not answer.
        """
        asked, self._asked = self._asked, None
        self._diagnosis.awaiting_reply = False
        if asked is None:
            return
        requests, asked_at = asked
        failures: dict[int, BaseException] = {}
        for request, reply in zip(requests, replies, strict=True):
            if self.ended:  # end() has counted what is left
                return
            if isinstance(reply, StreamUnavailable):
                failures[request.keys.partition] = reply
                continue
            try:
                self._on_reply(request, reply, now)
            except BaseException as error:  # noqa: BLE001  as in the flusher: the others' replies wait here
                failures[request.keys.partition] = error
        # What another reply's number of partitions has moved elsewhere meanwhile is asked for there.
        left = {number: error for number, error in failures.items() if self._buffer.queues[number].items}
        if left:
            self._record_failures(left, now - asked_at, now, away_too)
        for number, failure in failures.items():
            if number not in left and not isinstance(failure, StreamUnavailable):
                raise failure  # of what follows a reply: nothing of this partition would end an outage

    def _on_reply(self, request: Request, reply: Reply, now: float) -> None:
        self._sender.on_reply(request, reply, now)
        section = self.section
        with section.lock:
            self._record_success(request.keys.partition, now)
            if section.deferred:
                section.run_deferred()
        if isinstance(reply, Admission):
            self.partitions_unread(reply.unread)
            if reply.partitioning is not None:
                self.divide(reply.partitioning, now)
        self._log_notes()

    def _record_success(self, partition: int, now: float) -> None:
        """Nothing of this partition has to wait for Redis; called with the lock held."""
        if self._outages.active:
            took_s = self._outages.record_success(partition, now)
            self._in_memory = self._outages.active
            if took_s is not None:
                self.section.log(logging.WARNING, "The producer can use Redis again after %.1f s", took_s)

    @property
    def partitioning(self) -> Partitioning:
        """How traders are divided into partitions, as it is known here."""
        return self._buffer.partitioning

    def divide(self, partitioning: Partitioning, now: float) -> None:
        """Redis has this about the number of partitions: it counts where it is newer than what is known."""
        section = self.section
        with section.lock:
            before = self._buffer.partitioning
            if self.ended or not partitioning.is_newer_than(before):
                return
            self._sender.divide(partitioning)
            self._outages.divide(partitioning.partitions)
            for queue in self._buffer.queues.values():
                if not queue.items:  # nothing would try it again
                    self._record_success(queue.keys.partition, now)
            if section.deferred:
                section.run_deferred()
        if before.partitions != partitioning.partitions:
            if before.version:
                text = "The number of partitions has changed from %d to %d: the producer's traders move"
            else:
                text = (
                    "RISK_PARTITIONS is %d here, and the deployment has %d partitions: the producer uses "
                    "those; `riskstream partitions` changes their number"
                )
            section.log(logging.WARNING, text, before.partitions, partitioning.partitions)
        section.leave()

    def partitions_unread(self, reason: str | None) -> None:
        """Why Redis does not let this producer see how many partitions there are; None: it does."""
        before, self._diagnosis.unread = self._diagnosis.unread, reason
        if reason is not None and before is None:
            self.log_once(f"The producer does not follow a change of the number of partitions: {reason}")

    def on_error(self, error: BaseException, now: float) -> float:
        """A round failed, or anything else in the flusher. Returns the seconds until the next attempt.

        Where it was a round, only its partitions have to wait, which next_requests() knows.
        """
        self._diagnosis.awaiting_reply = False
        asked, self._asked = self._asked, None
        if self.ended:
            return 0.0
        if asked is None:
            return self._record_failures({None: error}, 0.0, now)
        requests, asked_at = asked
        self._record_failures({request.keys.partition: error for request in requests}, now - asked_at, now)
        return 0.0

    def _record_failures(
        self,
        failures: Mapping[int, BaseException] | Mapping[None, BaseException],
        took_s: float,
        now: float,
        away_too: Mapping[int, StreamUnavailable] = MappingProxyType({}),
    ) -> float:
        """failures: by partition; None: of all. took_s: what went before, where the error does not say how
        long its server was waited for. Returns the seconds until the next attempt."""
        section = self.section
        with section.lock:
            outages = self._outages
            begins = not outages.active
            for queue in self._buffer.queues.values():
                each = queue.keys.partition
                if outages.is_away(each) or not (None in failures or each in failures or each in away_too):
                    continue
                for item in queue.items:
                    self._counts.add_in_memory(item.snapshot)
                silent = away_too.get(each)
                if silent is not None and queue.items:
                    outages.record_failure(each, _reason(silent), silent.waited_s, now)
                elif silent is not None:  # nothing would try it again
                    outages.record_silence(each, silent.waited_s)
            self._in_memory = True
            expected, unexpected = False, dict[int, tuple[BaseException, list[int | None]]]()
            for partition, error in failures.items():
                if isinstance(error, StreamUnavailable):
                    expected, waited_s = True, error.waited_s
                else:
                    waited_s = took_s
                    if not outages.is_away(partition):
                        unexpected.setdefault(id(error), (error, []))[1].append(partition)
                wait_s = outages.record_failure(partition, _reason(error), waited_s, now)
                self._counts.unreplicated += isinstance(error, NotReplicated)
            if begins and expected:
                self._log_outage()
            for error, partitions in unexpected.values():
                self._log_unexpected(error, partitions)
            if section.deferred:
                section.run_deferred()
        section.leave()
        return wait_s

    def _log_outage(self) -> None:
        """Called with the lock held."""
        outages = self._outages
        named = outages.named(outages.partitions)
        reasons = outages.reasons
        self.section.log(
            logging.CRITICAL,
            "The producer cannot use Redis%s, its snapshots stay in memory: %s",
            f" for {named}" if named else "",
            next(iter(reasons)) if len(reasons) == 1 else outages.reason,
        )

    def _log_unexpected(self, error: BaseException, partitions: Sequence[int | None]) -> None:
        """Called with the lock held. partitions: those that it failed for; None: all."""
        named = self._outages.named(tuple(sorted(each for each in partitions if each is not None)))
        self.section.log(
            logging.CRITICAL,
            "The producer failed to send%s, its snapshots stay in memory and are sent again: %s",
            f" for {named}" if named and None not in partitions else "",
            _reason(error),
            exc_info=error,
        )

    def check_stall(self, now: float) -> None:
        """Log it, where the oldest snapshot has waited for too long."""
        if now >= self._check_stall_at:
            with self.section.lock:
                self._check_stall(now)
            self.section.leave()

    def no_thread(self, error: BaseException) -> None:
        """The flusher could not be started; the next save() tries again."""
        with self.section.lock:
            self._wakeup.depth = 1
            self._diagnosis.no_thread = f"a thread cannot be started: {error}"
            self.section.log(
                logging.CRITICAL,
                "The producer cannot start its thread, its snapshots stay in memory: %s",
                error,
            )
        self.section.leave()

    def thread_runs(self) -> None:
        """The flusher has begun."""
        self._diagnosis.no_thread = None

    def thread_ended(self) -> None:
        """The flusher has ended: the next save() starts another."""
        self._wakeup.depth = 1

    def sync_spool(self, *, now: bool) -> None:
        """fsync the spool, if it is due; now: it is."""
        section = self.section
        if section.is_held():
            return
        fd = None
        try:
            with section.lock:
                fd = None if self.spool is None else self.spool.duplicate_to_sync(now=now)
            if fd is not None:
                os.fsync(fd)
        except OSError as error:
            with section.lock:
                if self.spool is not None:
                    self.spool.fail(error)
            section.leave()
        finally:
            if fd is not None:
                os.close(fd)

    # The end

    def request_close(self, close_by: float | None) -> None:
        """Accept nothing more; the flusher sends what is there, until then at the most (monotonic)."""
        self.closed = True
        self.section.run(partial(self._request_close, close_by))
        self.waiters.wake()

    def _request_close(self, close_by: float | None) -> None:
        known = self._close_by
        self._close_by = close_by if known is None or close_by is None else min(known, close_by)
        if not self.ended and self._buffer.depth:
            self._wakeup.urgent = True
        self._wake(start=bool(self._buffer.depth) and not self.ended)

    def end(self) -> bool:
        """Count what is left, and log it. False: it was done before."""
        section = self.section
        with section.lock:
            if self.ended:
                return False
            self.closed = True
            if section.deferred:
                section.run_deferred()
            self._count_left()
            self.ended, self.spool, self._sender.spool = True, None, None
        section.leave()
        return True

    def _count_left(self) -> None:
        left = self._buffer.items()
        spool = self.spool  # released when all is counted: an end that was interrupted is repeated
        self.sync_each = False
        if spool is not None:
            spool.close(empty=not left)
            if spool.failed is None:
                if left:
                    self.section.log(
                        logging.WARNING,
                        "The producer was closed with %d snapshots in the spool, to be sent next time",
                        len(left),
                    )
                self._counts.spooled = sum(item.merged + 1 for item in left)
                return
        in_flight = self._sender.in_flight()
        unknown = unsent = 0
        failures: Counter[str] = Counter()
        for item in left:
            if item in in_flight:
                unknown += item.merged + 1
            else:
                unsent += item.merged + 1
            failures[item.snapshot.trader_id] += item.merged + 1
        # Counted when nothing more can fail: an end that was interrupted is repeated.
        self._counts.failures.update(failures)
        self._counts.unknown += unknown
        self._counts.unsent += unsent
        if left:
            self.section.log(
                logging.CRITICAL,
                "The producer was closed with %d snapshots that were never sent, and %d that were sent and "
                "not answered, which Redis may have or not; %d are confirmed (%s)",
                unsent,
                unknown,
                self._sender.accepted,
                self._diagnosis.of_item(left[0]),
            )

    # How it is

    def totals(self) -> SnapshotTotals:
        """Where everything is that was accepted."""
        with self.section.lock:
            counted = self.ended  # what was left is in the other numbers
            return SnapshotTotals(
                saved=self._counts.saved,
                confirmed=self._sender.accepted,
                held=0 if counted else sum(item.merged + 1 for item in self._buffer.items()),
                spooled=self._counts.spooled,
                unknown=self._counts.unknown,
                unsent=self._counts.unsent + self._sender.lost,
            )

    def all_confirmed(self) -> bool:
        """Whether Redis has everything that was accepted."""
        with self.section.lock:
            return not self.section.deferred and self._counts.saved == self._sender.accepted

    def health(self) -> Health:
        """How the producer is just now. Makes no call to Redis or Postgres, and never raises."""
        now = monotonic()
        with self.section.lock:
            oldest = None if self.ended else self._buffer.oldest()
            return Health(
                backend="memory" if self._in_memory else "postgres",
                reason=self._diagnosis.of_producer(oldest, now),
                stream_full=self._sender.full,
                buffered=self._buffer.depth + self._deferred_items,
                buffer_size=self._buffer.size,
                oldest_s=0.0 if oldest is None else now - oldest.since,
                accepted=self._sender.accepted,
                rejected=self._counts.rejected,
                invalid=invalid_total(),
                conflated=self._buffer.conflated,
                unknown=self._counts.unknown,
                unsent=self._counts.unsent + self._sender.lost,
                spool="off" if self.spool is None else self.spool.failed or "on",
                fenced=tuple(sorted(self._sender.fenced)),
                closed=self.closed,
                away=self._outages.partitions,
                partitions=self._buffer.partitioning.partitions,
            )

    def sample(self) -> MetricsSample:
        """What the metrics show."""
        now = monotonic()
        with self.section.lock:
            oldest = None if self.ended else self._buffer.oldest()
            return MetricsSample(
                accepted=self._sender.accepted,
                rejected=self._counts.rejected,
                conflated=self._buffer.conflated,
                unknown=self._counts.unknown,
                unsent=self._counts.unsent + self._sender.lost,
                outages=self._outages.count,
                unreplicated=self._counts.unreplicated,
                buffered=0 if self.ended else self._buffer.depth,
                oldest_s=0.0 if oldest is None else now - oldest.since,
                fenced=len(self._sender.fenced),
                away=0 if self.ended else len(self._outages.partitions),
                on_postgres=int(not self._in_memory),
                on_memory=int(self._in_memory),
                attempts=self._counts.attempts.copy(),
                failures=self._counts.failures.copy(),
                latency_ms=self._counts.latency_ms(),
            )

    @property
    def confirmed(self) -> int:
        """Snapshots that Redis has, those merged into others included."""
        return self._sender.accepted

    def in_memory_for(self, trader_id: str) -> bool:
        """Whether only memory holds what is saved of this trader now."""
        return self._in_memory and (
            not self._persistent or self._outages.is_away(self._partition_of(trader_id))
        )

    def held_reason(self, trader_id: str) -> str | None:
        """Why a trader is held back; None: it is not."""
        return self._sender.held_reason(trader_id)

    def outage_reason(self, trader_id: str) -> str | None:
        """Why Redis cannot be used for this trader; None: it can, as far as is known."""
        return self._sender.outage_reason(trader_id)

    def local_state(self, trader_id: str) -> LocalState:
        """What load() finds here."""
        with self.section.lock:
            newest, replayed = self._buffer.newest(trader_id), self._replayed.get(trader_id)
            if replayed is not None and newest is replayed.snapshot:
                return LocalState(newest, self._sender.epoch_of(replayed.incarnation, trader_id), "spool")
            return LocalState(newest, self._sender.epoch(trader_id), "memory")

    def keys_of(self, trader_id: str) -> Keys:
        """The keys of a trader's partition."""
        return self._keyspace.keys(self._partition_of(trader_id))

    def keys(self, partition: int) -> Keys:
        """The keys of a partition."""
        return self._keyspace.keys(partition)

    def _partition_of(self, trader_id: str) -> int:
        return self._buffer.queue_of(trader_id).keys.partition

    def log_once(self, text: str) -> None:
        """Log a critical line, the first time only."""
        if text not in self._logged_once:
            self._logged_once.add(text)
            self.section.log(logging.CRITICAL, "%s", text)
            self.section.leave()

    def _wake(self, *, start: bool = True) -> None:
        """Wake the flusher; called with the lock held."""
        if start:
            self._wakeup.depth = NEVER
        self.on_work(start)

    def _check_stall(self, now: float) -> None:
        """Called with the lock held."""
        oldest = None if self.ended else self._buffer.oldest()
        stall_s = self.options.stall_s
        if oldest is None or now - oldest.since < stall_s:
            self._check_stall_at = (now if oldest is None else oldest.since) + stall_s
            return
        self._check_stall_at = now + 60.0
        self.section.log(
            logging.CRITICAL,
            "The oldest snapshot has waited for %.0f s: %s",
            now - oldest.since,
            self._diagnosis.of_item(oldest),
        )

    def _log_notes(self) -> None:
        notes = self._sender.notes
        while notes:
            note = notes.popleft()
            self.section.log(logging.CRITICAL if note.critical else logging.WARNING, "%s", note.text)
        self.section.leave()


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, StreamUnavailable) else f"{type(error).__name__}: {error}"


def _no_flusher(_start: bool) -> None:
    """For a session that has no flusher."""
