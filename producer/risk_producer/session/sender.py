"""What to ask of Redis next, and what its answers mean. No I/O but the spool's, no threads, no waiting.

The flusher drives it:

    call = outbox.next_call(now)        a Claim, an Admit, or None
    answer = stream.ask(call)
    outbox.claimed(call, answer, now)   or admitted(): what is to be told

A call that was not answered is simply asked again, with the same bytes: whatever it did, it did once. And
whatever raises wherever: a snapshot stays in the buffer until Redis has it, and the same is asked again.

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

from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import encode
from risk_producer.session.buffer import Buffer, Item, Lane
from risk_producer.spool.spool import Replay, Spool
from risk_producer.transport.requests import BATCH_MAX, Admission, Admit, Claim, OutgoingEntry, Unreadable

FULL_POLL_S = 0.02
"""How soon to look again whether a full stream has room; it doubles up to FULL_POLL_MAX_S."""
FULL_POLL_MAX_S = 0.25
HOLD_S = 5.0
"""How soon to ask again for a trader that is held back."""
TELL_EVERY_S = 60.0

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


class Life:
    """One epoch of a trader, and the last seq in it that Redis has."""

    __slots__ = ("batch", "epoch", "last", "seq")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.seq = 0
        self.last = 0
        """The last seq stamped in `batch`."""
        self.batch: object = None


@dataclass(slots=True)
class _Way:
    """How things stand between one lane and Redis."""

    lane: Lane
    items: Sequence[Item] = ()
    """On their way; first in the lane's queue, or right behind those of traders that are held back."""
    in_flight: Admit | None = None
    """What is asked for them; None: still to be made."""
    asked: bool = False
    """Redis may have got it."""
    answer: Admission | None = None
    """What Redis answered, while that is not worked into the books completely."""
    not_before: float = 0.0
    full_poll_s: float = 0.0
    """Not 0: the stream is full."""


@dataclass(slots=True)
class _Hold:
    """A trader that is held back: what Redis has of it cannot be read."""

    reason: str
    ask_at: float
    told_at: float


@dataclass(frozen=True, slots=True)
class Note:
    """What the log has to tell about a trader."""

    trader_id: str
    text: str
    critical: bool = True


class Outbox:
    """The buffer's way out. Its methods belong to one flusher; the lock guards the buffer.

    The lock itself is asked for each time: a context manager in Python can be interrupted half-way.
    """

    def __init__(
        self,
        buffer: Buffer,
        lock: Callable[[], AbstractContextManager[object]],
        maxlen: int,
        spool: Spool | None = None,
    ) -> None:
        self._buffer = buffer
        self._lock = lock
        self._maxlen = maxlen
        self._batch_max = max(1, min(BATCH_MAX, buffer.size // 2))  # callers fill one half meanwhile
        self._ways = deque(_Way(lane) for lane in buffer.lanes)
        self._lives: dict[tuple[int, str], Life] = {}
        self._held: dict[str, _Hold] = {}
        self._behind: set[tuple[int, str]] = set()
        """Lives with a spool whose epoch is smaller than one in Postgres: they go to history alone."""
        self.spool = spool
        self.fenced: set[str] = set()
        """Traders of which a newer producer exists."""
        self.accepted = 0
        """Snapshots that Redis has, those merged into others included."""
        self.lost = 0
        """Snapshots that cannot be sent at all."""
        self.notes: deque[Note] = deque()
        """What the log has to tell."""

    def next_call(self, now: float) -> Claim | Admit | None:
        """What to ask next; now is monotonic, in seconds. None: nothing to send, or a stream is full."""
        for _ in range(len(self._ways)):
            way = self._ways[0]
            self._ways.rotate(-1)  # each in turn
            if way.answer is not None:  # working it in was interrupted
                with self._lock():
                    self._work_in(way, now)
            if now < way.not_before:
                continue
            if way.in_flight is None and not way.items:
                if not way.lane.queue:
                    continue
                with self._lock():
                    items = self._sendable(way.lane, now)
                    names = [(item.life, item.snapshot.trader_id) for item in items]
                    strangers = [name for name in names if name not in self._lives]
                    if not strangers:
                        for item in items:
                            item.sent = True
                        way.items = items
                if strangers:
                    return Claim(way.lane.keys, list(dict.fromkeys(strangers)))
            if way.in_flight is None:
                self._form(way)
            if way.in_flight is not None:
                way.asked = True
                return way.in_flight
        return None

    def wait_s(self, now: float) -> float:
        """Seconds until it is worth to look again, after next_call() had nothing to send."""
        waits = [way.not_before - now for way in self._ways if way.lane.queue and way.not_before > now]
        if self._held:
            waits.append(min(hold.ask_at for hold in self._held.values()) - now)
        return max(0.001, min(waits, default=0.0))

    @property
    def open(self) -> bool:
        """Whether a snapshot that comes now could be sent at once, though others have to wait."""
        return not all(way.full_poll_s for way in self._ways)

    def claimed(self, call: Claim, answer: Sequence[int | Unreadable], now: float) -> None:
        """The answer to a Claim."""
        lives = {
            name: each for name, each in zip(call.incarnations, answer, strict=True) if isinstance(each, int)
        }
        with self._lock():
            if self.spool is not None and lives:
                self.spool.claimed(list(lives), list(lives.values()))  # before anything is sent under them
            for name, each in zip(call.incarnations, answer, strict=True):
                if isinstance(each, Unreadable):
                    self._hold(name[1], each.reason, now)
                elif not (name[1] in self._held and self._held[name[1]].ask_at > now):
                    self._held.pop(name[1], None)
            self._lives.update((name, Life(epoch)) for name, epoch in lives.items())

    def restore(self, replay: Replay) -> None:
        """What a spool held when the producer started."""
        self._lives.update((life, Life(epoch)) for life, epoch in replay.epochs.items())
        self._buffer.restore(replay.items)

    def admitted(self, call: Admit, answer: Admission, now: float) -> None:
        """The answer to an Admit."""
        for way in self._ways:
            if way.in_flight is call:
                way.answer = answer
                with self._lock():
                    self._work_in(way, now)

    def epoch(self, trader_id: str) -> int | None:
        """This producer's epoch for a trader; None: not claimed yet."""
        return self.epoch_of(self._buffer.life, trader_id)

    def epoch_of(self, life: int, trader_id: str) -> int | None:
        """The epoch of one life of a producer for a trader; None: not claimed yet."""
        known = self._lives.get((life, trader_id))
        return None if known is None else known.epoch

    @property
    def full(self) -> bool:
        """Whether a stream had no room when last asked."""
        return any(way.full_poll_s for way in self._ways)

    def full_for(self, lane: Lane) -> bool:
        """Whether this lane's stream had no room when last asked."""
        return any(way.full_poll_s for way in self._ways if way.lane is lane)

    def held_reason(self, trader_id: str) -> str | None:
        """Why a trader is held back; None: it is not."""
        hold = self._held.get(trader_id)
        return None if hold is None else hold.reason

    @property
    def held(self) -> dict[str, str]:
        """The traders that are held back, and why."""
        return {trader_id: hold.reason for trader_id, hold in self._held.items()}

    def on_their_way(self) -> set[Item]:
        """The items that Redis may have, but has not confirmed."""
        return {item for way in self._ways if way.asked for item in way.items}

    def _sendable(self, lane: Lane, now: float) -> Sequence[Item]:
        """The oldest items, without those of traders that are held back."""
        blocked = {trader_id for trader_id, hold in self._held.items() if hold.ask_at > now}
        if not blocked:
            return list(islice(lane.queue, self._batch_max))
        free = (item for item in lane.queue if item.snapshot.trader_id not in blocked)
        return list(islice(free, self._batch_max))

    def _form(self, way: _Way) -> None:
        """Make the call for a way's items. Nothing is changed before all that may fail is done."""
        items = way.items
        lives = [self._lives[item.life, item.snapshot.trader_id] for item in items]
        entries, lost = self._stamp(items, lives)
        if lost:
            with self._lock():
                for item, error in lost:
                    self._lose(way, item, error)
                way.items = [item for item in items if not item.done]
        call = Admit(way.lane.keys, self._maxlen, entries) if entries else None
        if call is not None and self._behind:
            call.accept_behind = any((item.life, item.snapshot.trader_id) in self._behind for item in items)
        way.asked = False
        way.in_flight = call

    def _stamp(
        self, items: Sequence[Item], lives: Sequence[Life]
    ) -> tuple[list[OutgoingEntry], list[tuple[Item, Exception]]]:
        """lives: one for each item. Returns the entries, and what cannot be encoded."""
        entries: list[OutgoingEntry] = []
        lost: list[tuple[Item, Exception]] = []
        batch = object()
        for item, life in zip(items, lives, strict=True):
            snapshot, merged, seq = item.snapshot, item.merged, item.seq
            if life.batch is not batch:
                life.batch, life.last = batch, life.seq
            if not seq:
                seq = life.last + merged + 1
            try:
                payload = encode(snapshot, life.epoch, seq, merged, item.reset)
            except Exception as error:  # noqa: BLE001  it is found out what it is
                again = _encode_again(item, life.epoch, seq)
                if again is None:
                    lost.append((item, error))
                    continue
                payload = again
            life.last = seq
            entries.append(OutgoingEntry(snapshot.trader_id, life.epoch, seq, merged, payload))
        return entries, lost

    def _lose(self, way: _Way, item: Item, error: Exception) -> None:
        if item.done:
            return
        self.notes.append(
            Note(
                item.snapshot.trader_id,
                f"A snapshot of trader {item.snapshot.trader_id!r} cannot be sent and is left out: "
                f"{type(error).__name__}: {error}",
            )
        )
        count = item.merged + 1
        self._buffer.settle(way.lane, [item], lost=True)
        self.lost += count

    def _hold(self, trader_id: str, reason: str, now: float) -> None:
        known = self._held.get(trader_id)
        told_at = now
        if known is not None and now - known.told_at < TELL_EVERY_S:
            told_at = known.told_at
        else:
            self.notes.append(Note(trader_id, f"Trader {trader_id!r} is held back: {reason}"))
        self._held[trader_id] = _Hold(reason, now + HOLD_S, told_at)

    def _work_in(self, way: _Way, now: float) -> None:
        """What a way's answer changes. May be repeated, also after it was interrupted anywhere."""
        call, items, answer = way.in_flight, way.items, way.answer
        assert call is not None
        assert answer is not None
        arrived, entries, unread, behind = self._sort_out(items, call.entries, answer)
        rest = items[answer.count :]
        total = sum(entry.merged + 1 for entry in entries)
        done: dict[tuple[int, str], int] = {}
        for item, entry in zip(arrived, entries, strict=True):
            done[item.life, entry.trader_id] = entry.seq
        for name, seq in done.items():
            if name in self._lives:
                self._lives[name].seq = seq
            if self._held:
                self._held.pop(name[1], None)
        for item, entry in unread:
            item.seq = entry.seq  # whether the stream has it under this identity is not known
            self._hold(entry.trader_id, answer.skipped[entry.trader_id, entry.epoch].reason, now)
        for item, entry in behind:
            self._fall_behind(item, answer.skipped[entry.trader_id, entry.epoch].reason)
        for item in rest:
            item.sent = False
            if self.spool is None:
                item.seq = 0
        if self.spool is not None and done:
            gone = set(arrived)
            self.spool.settled(done, lambda: [item for item in self._buffer.items() if item not in gone])
        for trader_id, epoch in answer.fenced:
            if trader_id not in self.fenced and epoch == self.epoch(trader_id):
                self.fenced.add(trader_id)
                self.notes.append(
                    Note(
                        trader_id,
                        f"A newer producer has taken over trader {trader_id!r}: this one's snapshots still "
                        "go into its history, but its state is the newer one's",
                    )
                )
        poll_s = min(FULL_POLL_MAX_S, way.full_poll_s * 2 or FULL_POLL_S) if rest else 0.0
        self._buffer.settle(way.lane, arrived)
        # From here on there is no call that could fail: it is done and counted, or neither.
        way.full_poll_s = poll_s
        way.not_before = now + poll_s if poll_s else 0.0
        self.accepted += total
        way.items = ()
        way.in_flight = way.answer = None
        way.asked = False

    def _sort_out(
        self, items: Sequence[Item], entries: Sequence[OutgoingEntry], answer: Admission
    ) -> tuple[
        Sequence[Item],
        Sequence[OutgoingEntry],
        list[tuple[Item, OutgoingEntry]],
        list[tuple[Item, OutgoingEntry]],
    ]:
        """What has arrived (items and their entries), what could not be read of, and what fell behind."""
        items, entries = items[: answer.count], entries[: answer.count]
        if not answer.skipped:
            return items, entries, [], []
        arrived: list[tuple[Item, OutgoingEntry]] = []
        unread: list[tuple[Item, OutgoingEntry]] = []
        behind: list[tuple[Item, OutgoingEntry]] = []
        for item, entry in zip(items, entries, strict=True):
            skipped = answer.skipped.get((entry.trader_id, entry.epoch))
            if skipped is None or (skipped.kind == "behind" and entry.seq <= skipped.admitted):
                arrived.append((item, entry))
            else:
                (unread if skipped.kind == "unreadable" else behind).append((item, entry))
        return [item for item, _ in arrived], [entry for _, entry in arrived], unread, behind

    def _fall_behind(self, item: Item, reason: str) -> None:
        """Postgres knows a greater epoch than the one that this snapshot was stamped with."""
        name = item.life, item.snapshot.trader_id
        item.sent = False
        if self.spool is None:
            item.seq = 0
            if self._lives.pop(name, None) is not None:
                self.notes.append(Note(name[1], f"{reason}; a new epoch is claimed", critical=False))
        elif name not in self._behind:  # its seq is on disk, under this epoch
            self._behind.add(name)
            self.fenced.add(name[1])
            self.notes.append(
                Note(
                    name[1],
                    f"{reason}: the snapshots of this spool go into the history of trader {name[1]!r}, "
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
