"""What to ask of Redis next, and what its answers mean. No I/O, no threads, no waiting.

The threaded and the asyncio producer both drive it:

    call = outbox.next_call(now)        a Claim, an Admit, or None
    answer = stream.ask(call)
    outbox.answered(call, answer, now)

A call that was not answered is simply asked again, with the same bytes: whatever it did, it did once.
Here the identity is stamped: a snapshot gets its seq when its batch is formed, and gives it back when the
stream had no room for it. With a spool it has its seq already, for good.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from risk_producer.buffer import Buffer, Item, Lane
from risk_producer.errors import StreamUnavailable
from risk_producer.spool import Replay, Spool
from risk_producer.stream import BATCH_MAX, Admission, Admit, Claim, Entry, Unreadable
from risk_producer.wire import encode

FULL_POLL_S = 0.02
"""How soon to look again whether a full stream has room; it doubles up to FULL_POLL_MAX_S."""
FULL_POLL_MAX_S = 0.25


@dataclass(slots=True)
class Life:
    """One epoch of a trader, and the last seq stamped in it."""

    epoch: int
    seq: int = 0


@dataclass(slots=True)
class _Way:
    """How things stand between one lane and Redis."""

    lane: Lane
    in_flight: Admit | None = None
    not_before: float = 0.0
    full_poll_s: float = 0.0
    """Not 0: the stream is full."""


class Outbox:
    """The buffer's way out. next_call() and answered() belong to one flusher; the lock guards the buffer."""

    def __init__(self, buffer: Buffer, lock: threading.Lock, maxlen: int, spool: Spool | None = None) -> None:
        self._buffer = buffer
        self._lock = lock
        self._maxlen = maxlen
        self._batch_max = max(1, min(BATCH_MAX, buffer.size // 2))  # callers fill one half meanwhile
        self._ways = deque(_Way(lane) for lane in buffer.lanes)
        self._lives: dict[tuple[int, str], Life] = {}
        self.spool = spool
        self.fenced: set[str] = set()
        """Traders of which a newer producer exists."""
        self.accepted = 0
        """Snapshots that Redis has, those merged into others included."""

    def next_call(self, now: float) -> Claim | Admit | None:
        """What to ask next; now is monotonic, in seconds. None: nothing to send, or a stream is full."""
        for _ in range(len(self._ways)):
            way = self._ways[0]
            self._ways.rotate(-1)  # each in turn
            if now < way.not_before:
                continue
            if way.in_flight is not None:
                return way.in_flight
            if not way.lane.queue:
                continue
            with self._lock:
                items = self._buffer.peek(way.lane, self._batch_max)
                names = [(item.life, item.snapshot.trader_id) for item in items]
                strangers = [name for name in names if name not in self._lives]
                if not strangers:
                    self._buffer.take(way.lane, len(items))
            if strangers:
                return Claim(way.lane.keys, list(dict.fromkeys(strangers)))
            entries = self._stamp(items, [self._lives[name] for name in names])
            way.in_flight = Admit(way.lane.keys, self._maxlen, entries)
            return way.in_flight
        return None

    def wait_s(self, now: float) -> float:
        """Seconds until a full stream should be looked at again, after next_call() had nothing to send."""
        waiting = [way.not_before - now for way in self._ways if way.lane.queue]
        return max(0.0, min(waiting, default=0.0))

    def claimed(self, call: Claim, answer: Sequence[int | Unreadable]) -> None:
        """The answer to a Claim."""
        epochs: list[int] = []
        for each in answer:
            if isinstance(each, Unreadable):
                raise StreamUnavailable(each.reason)
            epochs.append(each)
        with self._lock:
            if self.spool is not None:
                self.spool.claimed(call.lives, epochs)  # before anything is sent under them
            for life, epoch in zip(call.lives, epochs, strict=True):
                self._lives[life] = Life(epoch)

    def restore(self, replay: Replay) -> None:
        """What a spool held when the producer started."""
        self._lives.update((life, Life(epoch)) for life, epoch in replay.epochs.items())
        self._buffer.restore(replay.items)

    def admitted(self, call: Admit, answer: Admission, now: float) -> list[str]:
        """The answer to an Admit. Returns the traders that are fenced and were not known to be."""
        way = next(way for way in self._ways if way.in_flight is call)
        left = zip(way.lane.taken[answer.count :], call.entries[answer.count :], strict=True)
        for item, entry in reversed(list(left)):
            if not item.seq:
                self._lives[item.life, entry.trader_id].seq = entry.seq - entry.merged - 1
        done = {(item.life, item.snapshot.trader_id): item.seq for item in way.lane.taken[: answer.count]}
        with self._lock:
            way.in_flight = None
            self._buffer.settle(way.lane, answer.count)
            if self.spool is not None and done:
                self.spool.settled(done, self._buffer.items)
        self.accepted += sum(entry.merged + 1 for entry in call.entries[: answer.count])
        if answer.count < len(call.entries):
            way.full_poll_s = min(FULL_POLL_MAX_S, way.full_poll_s * 2 or FULL_POLL_S)
            way.not_before = now + way.full_poll_s
        else:
            way.full_poll_s = way.not_before = 0.0
        newly_fenced = [
            trader_id
            for trader_id, epoch in answer.fenced
            if trader_id not in self.fenced and epoch == self.epoch(trader_id)
        ]
        self.fenced.update(newly_fenced)
        return newly_fenced

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

    def _stamp(self, items: Sequence[Item], lives: Sequence[Life]) -> list[Entry]:
        """lives: one for each item."""
        entries = []
        for item, life in zip(items, lives, strict=True):
            snapshot, merged, seq = item.snapshot, item.merged, item.seq
            if not seq:
                seq = life.seq = life.seq + merged + 1
            payload = encode(snapshot, life.epoch, seq, merged)
            entries.append(Entry(snapshot.trader_id, life.epoch, seq, merged, payload))
        return entries
