"""Sender: the next requests to Redis, and what replies mean. No I/O but the spool's, no threads, no waiting.

The flusher drives it, a round at a time:

    requests = sender.next_requests(now)      Claims and Admits, each of another partition
    replies = stream.ask(requests)
    sender.on_reply(request, reply, now)      for each that was answered

A request that was not answered is sent again, with the same bytes: whatever it did, it did once. And
whatever raises wherever: a snapshot stays in the buffer until Redis has it, and the request is sent again.

Here the identity is stamped: a snapshot gets its seq when its batch is formed, and gives it back when the
stream had no room for it. With a spool it has its seq already, for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import encode
from risk_producer.item import Item, State
from risk_producer.session.buffer import Buffer, PartitionQueue
from risk_producer.session.outages import Outages
from risk_producer.spool.spool import Replay, Spool
from risk_producer.transport.requests import (
    BATCH_MAX,
    Admission,
    Admit,
    Claim,
    OutgoingEntry,
    Request,
    Unreadable,
)

FULL_ROUND = 8
"""Requests in a round, at the most, where more waits than one can carry: each call of a script has a price of
its own, so there are few, and fuller."""
FULL_POLL_S = 0.02
"""How soon to look again whether a full stream has room; it doubles up to FULL_POLL_MAX_S."""
FULL_POLL_MAX_S = 0.25
HOLD_S = 5.0
"""How soon to ask again for a trader that is held back."""
LOG_EVERY_S = 60.0
"""How often the log names a trader that is held back."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_SOUND = RiskSnapshot(
    trader_id="sound",
    daily_pnl=0.0,
    drawdown_pct=0.0,
    current_equity=0.0,
    peak_equity=0.0,
    last_reset_time=_EPOCH,
    recorded_at=_EPOCH,
)
"""Encoded where another one cannot be: what fails for this one too is not the other one's fault."""


class EpochCounter:
    """One epoch of a trader, and the last seq in it that Redis has."""

    __slots__ = ("batch", "epoch", "last", "seq")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.seq = 0
        self.last = 0
        """The last seq stamped in `batch`."""
        self.batch: object = None


@dataclass(slots=True)
class PartitionState:
    """What of one partition is on its way to Redis, and what Redis replied."""

    queue: PartitionQueue
    in_flight: Sequence[Item] = ()
    """On their way; first in the queue, or right behind those of traders that are held back."""
    request: Admit | None = None
    """The request that carries them; None: still to be made."""
    sent: bool = False
    """Redis may have received the request."""
    reply: Admission | None = None
    """What Redis replied, while that is not applied completely."""
    not_before: float = 0.0
    full_poll_s: float = 0.0
    """Not 0: the stream is full."""


@dataclass(slots=True)
class _Hold:
    """A trader that is held back: what Redis has of it cannot be read."""

    reason: str
    ask_at: float
    logged_at: float


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log about a trader."""

    trader_id: str
    text: str
    critical: bool = True


class Sender:
    """The buffer's way to Redis. Its methods belong to one flusher; the lock guards the buffer.

    The lock itself is asked for each time: a context manager in Python can be interrupted half-way.
    """

    def __init__(
        self,
        buffer: Buffer,
        lock: Callable[[], AbstractContextManager[object]],
        maxlen: int,
        spool: Spool | None = None,
        outages: Outages | None = None,
    ) -> None:
        self._buffer = buffer
        self._outages = outages or Outages(len(buffer.queues))
        self._lock = lock
        self._maxlen = maxlen
        self._batch_max = max(1, min(BATCH_MAX, buffer.size // 2))  # callers fill one half meanwhile
        self._states: dict[int, PartitionState] = {}
        """By partition."""
        self._add_states()
        self._first = 0
        """Which of them comes first in the next round, by number from 0."""
        self._epochs: dict[tuple[int, str], EpochCounter] = {}
        """(incarnation, trader_id) -> its epoch; a trader that is not in it is unclaimed."""
        self._held: dict[str, _Hold] = {}
        self._behind: set[tuple[int, str]] = set()
        """(incarnation, trader_id) with a spool whose epoch is smaller than one in Postgres: their snapshots
        go to history alone."""
        self.spool = spool
        self.failed: dict[int, BaseException] = {}
        """Partitions for which next_requests() could make no request, and why: the others' are made."""
        self.fenced: set[str] = set()
        """Traders of which a newer producer exists."""
        self.accepted = 0
        """Snapshots that Redis has, those merged into others included."""
        self.lost = 0
        """Snapshots that cannot be sent at all."""
        self.notes: deque[Note] = deque()
        """Lines for the log."""

    def next_requests(self, now: float) -> list[Request]:
        """The next round: at most one request of each partition; now is monotonic, in seconds.

        Empty: nothing to send, or streams are full. All together have as many entries as one partition may
        send at once. One that is away, or on a server that did not answer, is asked alone: the others would
        wait with it. What fails for one partition is in `failed`.
        """
        self.failed = {}
        if len(self._states) < len(self._buffer.queues):  # divide() was interrupted
            with self._lock():
                self._add_states()
        requests: list[Request] = []
        room, first_left = self._batch_max, None
        states = list(self._states.values())
        most = len(states) if self._buffer.depth <= room else FULL_ROUND
        for at, state in enumerate(states[self._first :] + states[: self._first], self._first):
            if now < self._not_before(state) or not (state.reply or state.in_flight or state.queue.items):
                continue
            number = state.queue.keys.partition
            away = self._outages.is_doubtful(number)
            if len(requests) == most:
                room = 0
            try:
                if state.reply is not None:  # applying it was interrupted
                    with self._lock():
                        self._apply_reply(state, now)
                if requests and (away or not room or len(state.in_flight) > room):
                    first_left = at if first_left is None else first_left
                    continue
                request = self._request_of(state, room, now)
            except BaseException as error:  # noqa: BLE001  as in the flusher: the others' snapshots wait here
                self.failed[number] = error
                continue
            if request is None:
                continue
            requests.append(request)
            room = max(0, room - len(request))
            if away:
                first_left = at + 1
                break
        if first_left is not None:  # each in turn
            self._first = first_left % len(states)
        return requests

    def _request_of(self, state: PartitionState, room: int, now: float) -> Request | None:
        """What this partition has to ask, with `room` entries at the most; None: nothing just now."""
        if state.request is None and not state.in_flight:
            with self._lock():
                items = self._sendable(state.queue, room, now)
                keys = [(item.incarnation, item.snapshot.trader_id) for item in items]
                unclaimed = [key for key in keys if key not in self._epochs]
                if not unclaimed:
                    for item in items:
                        item.state = State.SENT
                    state.in_flight = items
            if unclaimed:
                return Claim(state.queue.keys, list(dict.fromkeys(unclaimed)), self._buffer.partitioning)
        if state.request is None and state.in_flight:
            self._make_request(state)
        state.sent = state.request is not None
        return state.request

    def divide(self, partitioning: Partitioning) -> None:
        """Divide the traders by another number of partitions; called with the lock held.

        A trader keeps its epoch, and its seq goes on: what of it is on its way arrives first, where it is.
        """
        self._buffer.divide(partitioning)
        self._add_states()
        for state in self._states.values():  # what waited for room may be elsewhere now, and caps are others
            state.full_poll_s = state.not_before = 0.0

    def _add_states(self) -> None:
        """Called with the lock held."""
        for number, queue in self._buffer.queues.items():
            if number not in self._states:
                self._states[number] = PartitionState(queue)

    def wait_s(self, now: float) -> float:
        """Seconds until it is worth to look again, after next_requests() had nothing to send."""
        starts = [self._not_before(state) for state in self._states.values() if state.queue.items]
        waits = [start - now for start in starts if start > now]
        if self._held:
            waits.append(min(hold.ask_at for hold in self._held.values()) - now)
        return max(0.001, min(waits, default=0.0))

    @property
    def cap(self) -> int:
        """Entries that the stream of one partition may hold: its part of what all may hold together."""
        return -(-self._maxlen // self._buffer.partitioning.partitions)

    @property
    def open(self) -> bool:
        """Whether a snapshot that comes now could be sent at once, though others have to wait."""
        now = range(self._buffer.partitioning.partitions)  # a former one gets no snapshot that comes now
        return not all(
            state.full_poll_s or self._outages.is_away(number)
            for number, state in self._states.items()
            if number in now
        )

    def _not_before(self, state: PartitionState) -> float:
        if not self._outages.active:
            return state.not_before
        return max(state.not_before, self._outages.not_before(state.queue.keys.partition))

    def on_reply(self, request: Request, reply: Sequence[int | Unreadable] | Admission, now: float) -> None:
        """Apply the reply to a request."""
        if isinstance(reply, Admission):
            state = self._states[request.keys.partition]
            if state.request is request:
                state.reply = reply
                with self._lock():
                    self._apply_reply(state, now)
        else:
            assert isinstance(request, Claim)
            self._on_claimed(request, reply, now)

    def _on_claimed(self, request: Claim, reply: Sequence[int | Unreadable], now: float) -> None:
        replies = list(zip(request.incarnations, reply, strict=True))
        epochs = {key: each for key, each in replies if isinstance(each, int)}
        with self._lock():
            if self.spool is not None and epochs:
                self.spool.claimed(list(epochs), list(epochs.values()))  # before anything is sent under them
            for (_, trader_id), each in replies:
                if isinstance(each, Unreadable):
                    self._hold(trader_id, each.reason, now)
                elif not (trader_id in self._held and self._held[trader_id].ask_at > now):
                    self._held.pop(trader_id, None)
            self._epochs.update((key, EpochCounter(epoch)) for key, epoch in epochs.items())

    def restore(self, replay: Replay) -> None:
        """What a spool held when the producer started."""
        self._epochs.update((key, EpochCounter(epoch)) for key, epoch in replay.epochs.items())
        self._buffer.restore(replay.items)

    def epoch(self, trader_id: str) -> int | None:
        """This producer's epoch for a trader; None: not claimed yet."""
        return self.epoch_of(self._buffer.incarnation, trader_id)

    def epoch_of(self, incarnation: int, trader_id: str) -> int | None:
        """The epoch of one incarnation of a producer for a trader; None: not claimed yet."""
        known = self._epochs.get((incarnation, trader_id))
        return None if known is None else known.epoch

    @property
    def full(self) -> bool:
        """Whether a stream had no room when last asked."""
        return any(state.full_poll_s for state in self._states.values())

    def full_for(self, queue: PartitionQueue) -> bool:
        """Whether this partition's stream had no room when last asked."""
        state = self._states.get(queue.keys.partition)
        return state is not None and state.full_poll_s > 0

    def outage_reason(self, trader_id: str) -> str | None:
        """Why Redis cannot be used for this trader; None: it can, as far as is known."""
        return self._outages.reason_of(self._buffer.queue_of(trader_id).keys.partition)

    def held_reason(self, trader_id: str) -> str | None:
        """Why a trader is held back; None: it is not."""
        hold = self._held.get(trader_id)
        return None if hold is None else hold.reason

    @property
    def held(self) -> dict[str, str]:
        """The traders that are held back, and why."""
        return {trader_id: hold.reason for trader_id, hold in self._held.items()}

    def in_flight(self) -> set[Item]:
        """The items that Redis may have, but has not confirmed."""
        return {item for state in self._states.values() if state.sent for item in state.in_flight}

    def _sendable(self, queue: PartitionQueue, room: int, now: float) -> Sequence[Item]:
        """The oldest items that there is room for, without those of traders that are held back, or have some
        elsewhere still."""
        blocked = {trader_id for trader_id, hold in self._held.items() if hold.ask_at > now}
        if not blocked and not self._buffer.left:
            return list(islice(queue.items, room))
        free = (
            item
            for item in queue.items
            if item.snapshot.trader_id not in blocked and not self._buffer.must_wait(queue, item)
        )
        return list(islice(free, room))

    def _make_request(self, state: PartitionState) -> None:
        """Make the request for the items in flight. Nothing is changed before all that may fail is done."""
        items = state.in_flight
        epochs = [self._epochs[item.incarnation, item.snapshot.trader_id] for item in items]
        entries, lost = self._stamp(items, epochs)
        if lost:
            with self._lock():
                for item, error in lost:
                    self._lose(state, item, error)
                state.in_flight = [item for item in items if not item.over]
        request = None
        if entries:
            request = Admit(state.queue.keys, self.cap, entries, partitioning=self._buffer.partitioning)
        if request is not None and self._behind:
            request.accept_behind = any(
                (item.incarnation, item.snapshot.trader_id) in self._behind for item in items
            )
        state.sent = False
        state.request = request

    def _stamp(
        self, items: Sequence[Item], epochs: Sequence[EpochCounter]
    ) -> tuple[list[OutgoingEntry], list[tuple[Item, Exception]]]:
        """epochs: one for each item. Returns the entries, and what cannot be encoded."""
        entries: list[OutgoingEntry] = []
        lost: list[tuple[Item, Exception]] = []
        batch = object()
        for item, counter in zip(items, epochs, strict=True):
            snapshot, merged, seq = item.snapshot, item.merged, item.seq
            if counter.batch is not batch:
                counter.batch, counter.last = batch, counter.seq
            if not seq:
                seq = counter.last + merged + 1
            try:
                payload = encode(snapshot, counter.epoch, seq, merged, item.reset)
            except Exception as error:  # noqa: BLE001  _encode_again() finds out what it is
                again = _encode_again(item, counter.epoch, seq)
                if again is None:
                    lost.append((item, error))
                    continue
                payload = again
            counter.last = seq
            entries.append(OutgoingEntry(snapshot.trader_id, counter.epoch, seq, merged, payload))
        return entries, lost

    def _lose(self, state: PartitionState, item: Item, error: Exception) -> None:
        if item.over:
            return
        self.notes.append(
            Note(
                item.snapshot.trader_id,
                f"A snapshot of trader {item.snapshot.trader_id!r} cannot be sent and is left out: "
                f"{type(error).__name__}: {error}",
            )
        )
        count = item.merged + 1
        self._buffer.confirm(state.queue, [item], lost=True)
        self.lost += count

    def _hold(self, trader_id: str, reason: str, now: float) -> None:
        known = self._held.get(trader_id)
        logged_at = now
        if known is not None and now - known.logged_at < LOG_EVERY_S:
            logged_at = known.logged_at
        else:
            self.notes.append(Note(trader_id, f"Trader {trader_id!r} is held back: {reason}"))
        self._held[trader_id] = _Hold(reason, now + HOLD_S, logged_at)

    def _apply_reply(self, state: PartitionState, now: float) -> None:
        """Apply the reply to an Admit. May be repeated, also after it was interrupted anywhere."""
        request, items, reply = state.request, state.in_flight, state.reply
        assert request is not None
        assert reply is not None
        arrived, entries, unread, behind = self._classify(items, request.entries, reply)
        rest = items[reply.count :]
        total = sum(entry.merged + 1 for entry in entries)
        done: dict[tuple[int, str], int] = {}
        for item, entry in zip(arrived, entries, strict=True):
            done[item.incarnation, entry.trader_id] = entry.seq
        for key, seq in done.items():
            if key in self._epochs:
                self._epochs[key].seq = seq
            if self._held:
                self._held.pop(key[1], None)
        for item, entry in unread:
            item.seq = entry.seq  # whether the stream has it under this identity is not known
            self._hold(entry.trader_id, reply.skipped[entry.trader_id, entry.epoch].reason, now)
        for item, entry in behind:
            self._set_behind(item, reply.skipped[entry.trader_id, entry.epoch].reason)
        for item in rest:
            item.state = State.WAITING
            if self.spool is None:
                item.seq = 0
        if self.spool is not None and done:
            gone = set(arrived)
            self.spool.confirm(done, lambda: [item for item in self._buffer.items() if item not in gone])
        for trader_id, epoch in reply.fenced:
            if trader_id not in self.fenced and epoch == self.epoch(trader_id):
                self.fenced.add(trader_id)
                self.notes.append(
                    Note(
                        trader_id,
                        f"A newer producer has taken over trader {trader_id!r}: this one's snapshots still "
                        "go into its history, but its state is the newer one's",
                    )
                )
        poll_s = min(FULL_POLL_MAX_S, state.full_poll_s * 2 or FULL_POLL_S) if rest else 0.0
        self._buffer.confirm(state.queue, arrived)
        # From here on there is no call that could fail: it is done and counted, or neither.
        state.full_poll_s = poll_s
        state.not_before = now + poll_s if poll_s else 0.0
        self.accepted += total
        state.in_flight = ()
        state.request = state.reply = None
        state.sent = False

    def _classify(
        self, items: Sequence[Item], entries: Sequence[OutgoingEntry], reply: Admission
    ) -> tuple[
        Sequence[Item],
        Sequence[OutgoingEntry],
        list[tuple[Item, OutgoingEntry]],
        list[tuple[Item, OutgoingEntry]],
    ]:
        """What has arrived (items and their entries), what could not be read of, and what fell behind."""
        items, entries = items[: reply.count], entries[: reply.count]
        if not reply.skipped:
            return items, entries, [], []
        arrived: list[tuple[Item, OutgoingEntry]] = []
        unread: list[tuple[Item, OutgoingEntry]] = []
        behind: list[tuple[Item, OutgoingEntry]] = []
        for item, entry in zip(items, entries, strict=True):
            skipped = reply.skipped.get((entry.trader_id, entry.epoch))
            if skipped is None or (skipped.kind == "behind" and entry.seq <= skipped.admitted):
                arrived.append((item, entry))
            else:
                (unread if skipped.kind == "unreadable" else behind).append((item, entry))
        return [item for item, _ in arrived], [entry for _, entry in arrived], unread, behind

    def _set_behind(self, item: Item, reason: str) -> None:
        """Postgres knows a greater epoch than the one that this snapshot was stamped with."""
        key = item.incarnation, item.snapshot.trader_id
        item.state = State.WAITING
        if self.spool is None:
            item.seq = 0
            if self._epochs.pop(key, None) is not None:
                self.notes.append(Note(key[1], f"{reason}; a new epoch is claimed", critical=False))
        elif key not in self._behind:  # its seq is on disk, under this epoch
            self._behind.add(key)
            self.fenced.add(key[1])
            self.notes.append(
                Note(
                    key[1],
                    f"{reason}: the snapshots of this spool go into the history of trader {key[1]!r}, "
                    "but its state stays the newer one in Postgres",
                )
            )


def _encode_again(item: Item, epoch: int, seq: int) -> bytes | None:
    """Encoding failed: once more. None: it cannot be done, and that is this snapshot's own fault.

    Raises where it is not: there is no memory, or no snapshot can be encoded.
    """
    encode(_SOUND, epoch, 1)
    try:
        return encode(item.snapshot, epoch, seq, item.merged, item.reset)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the sound one could be encoded
        return None
