"""The bounded buffer between save() and the flusher. It knows its policy when full, and nothing of Redis.

Not thread-safe: its owner holds a lock, for moments only.

One lane a partition, each in the order of arrival. What is on its way to Redis stays where it is until it is
settled, so that nothing is ever between two places, and the bound is a bound on what memory holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Literal

import msgspec

from risk_producer.contract.keys import Keys, partition_of
from risk_producer.contract.snapshot import RiskSnapshot, with_last_reset

OnFull = Literal["block", "refuse", "conflate"]


class Item(msgspec.Struct, eq=False, gc=False):
    """A snapshot in the buffer, and how many older ones it stands for.

    A struct, because that is made quickest; and no object for the garbage collector to look at.
    """

    snapshot: RiskSnapshot
    life: int = 0
    """Which life of a producer it belongs to; lives are told apart only where there is a spool."""
    reset: datetime | None = None
    """Its last_reset_time: the snapshot's own, else the one that is carried on; None: its recorded_at."""
    since: float = 0.0
    """When it, or the oldest that it stands for, was accepted; monotonic, in seconds."""
    merged: int = 0
    seq: int = 0
    """Its seq, if it has one for good: the spool gives it when it writes the snapshot down."""
    segment: int = 0
    """The oldest segment of the spool that is needed for it; 0: none."""
    size: int = 0
    """Bytes that it takes in the spool."""
    changed: bool = True
    """Whether it differs from the trader's one before it in what must never be dropped."""
    sent: bool = False
    """Redis may have its bytes already: it is neither merged nor withdrawn."""
    into: Item | None = None
    """The item that it was merged into."""
    done: bool = False
    """Nothing more will become of it: Redis has it, or it was withdrawn, or it cannot be sent."""
    lost: bool = False
    """It cannot be sent."""

    @property
    def survivor(self) -> Item:
        """The item itself, or the newer one that it was merged into."""
        item = self
        while item.into is not None:
            item = item.into
        return item

    @property
    def arrived(self) -> bool:
        """Whether Redis has it, or the newer one that it was merged into, or it is lost or withdrawn."""
        return self.survivor.done


class Lane:
    """The queue of one partition."""

    __slots__ = ("keys", "queue")

    def __init__(self, partition: int) -> None:
        self.keys = Keys(partition)
        self.queue: deque[Item] = deque()


class Trader:
    """What the buffer knows of one trader."""

    __slots__ = ("lane", "newest", "settled", "tail")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.newest: Item | None = None
        """The newest one accepted."""
        self.settled: Item | None = None
        """The newest one that Redis has."""
        self.tail: Item | None = None
        """The newest item, while it is queued."""


class Buffer:
    """Holds up to `size` snapshots."""

    def __init__(self, size: int, partitions: int, on_full: OnFull) -> None:
        self.size = size
        self.lanes = [Lane(partition) for partition in range(partitions)]
        self.depth = 0
        """Snapshots held: waiting, or on their way."""
        self.conflated = 0
        """Snapshots that were merged into a newer one."""
        self.life = 0
        """The life that new snapshots belong to."""
        self.loaded_resets: dict[str, datetime] = {}
        """last_reset_time of each trader that load() found."""
        self._conflating = on_full == "conflate"
        self._traders: dict[str, Trader] = {}

    def put(self, snapshot: RiskSnapshot, now: float = 0.0) -> Item | None:
        """Append a snapshot; None where there is no room. Conflates first, if that is the policy."""
        trader = self._traders.get(snapshot.trader_id)
        if trader is None:
            trader = self._meet(snapshot.trader_id)
        reset = snapshot.last_reset_time
        if reset is None:
            newest = trader.newest
            reset = self._first_reset(snapshot) if newest is None else newest.reset
        item = Item(snapshot, self.life, reset, now)
        if self._conflating:
            item.changed = _differ(trader.newest, snapshot)
        if self.depth >= self.size:
            if not self._conflating:
                return None
            tail = trader.tail
            if tail is not None and not (tail.changed or tail.sent) and tail.life == self.life:
                self._replace(trader, tail, item)
                return tail
            if not self.conflate():
                return None
        trader.lane.queue.append(item)
        trader.newest = trader.tail = item
        self.depth += 1
        return item

    def restore(self, items: Sequence[Item]) -> None:
        """Queue what a spool held, whatever the size. None of it is ever merged: an earlier life may have
        sent it already, and a survivor must not claim to stand for what is stored."""
        now = monotonic()
        for item in items:
            trader_id = item.snapshot.trader_id
            trader = self._traders.get(trader_id) or self._meet(trader_id)
            item.since = now
            item.reset = item.snapshot.last_reset_time
            trader.lane.queue.append(item)
            trader.newest = trader.tail = item
            self.depth += 1

    def settle(self, lane: Lane, items: Sequence[Item], *, lost: bool = False) -> None:
        """Forget these items of a lane: Redis has them, or (lost) they cannot be sent.

        Whatever raises in here: it is done for all of them or for none.
        """
        queue, depth = lane.queue, self.depth - len(items)
        if any(item is not other for item, other in zip(items, queue, strict=False)):
            gone = set(items)  # they are behind those of a trader that is held back
            queue = deque(item for item in queue if item not in gone)
        in_place = queue is lane.queue
        traders = [self._traders[item.snapshot.trader_id] for item in items]
        steps = list(zip(items, traders, strict=True))
        # From here on there is no call that could fail.
        for item, trader in steps:
            item.done = True
            if lost:
                item.lost = True
            else:
                trader.settled = item
            if trader.tail is item:
                trader.tail = None
            if in_place:
                del queue[0]
        lane.queue = queue
        self.depth = depth

    def withdraw(self, item: Item) -> bool:
        """Take an item out as if it had never come. False: it is on its way, or has its seq already, or
        conflation relies on it."""
        trader = self._traders[item.snapshot.trader_id]
        queue = trader.lane.queue
        if item.done or item.seq or item.sent or item.into is not None or item not in queue:
            return False
        later = islice(queue, queue.index(item) + 1, None)
        heir = next((other for other in later if other.snapshot.trader_id == item.snapshot.trader_id), item)
        if item.merged or heir.merged:
            return False
        queue.remove(item)
        self.depth -= 1
        item.done = True
        trader.newest, trader.tail = trader.settled, None
        for other in queue:
            if other.snapshot.trader_id == item.snapshot.trader_id:
                other.changed = _differ(trader.newest, other.snapshot)
                trader.newest = trader.tail = other
        return True

    def oldest(self) -> Item | None:
        """The item that has waited for the longest."""
        heads = [lane.queue[0] for lane in self.lanes if lane.queue]
        return min(heads, key=lambda item: item.since, default=None)

    def items(self) -> list[Item]:
        """Everything held, the oldest of a lane first."""
        return [item for lane in self.lanes for item in lane.queue]

    def newest(self, trader_id: str) -> RiskSnapshot | None:
        """The newest snapshot accepted of a trader, sent or not."""
        trader = self._traders.get(trader_id)
        newest = None if trader is None else trader.newest
        if newest is None:
            return None
        if newest.snapshot.last_reset_time is not None:
            return newest.snapshot
        return with_last_reset(newest.snapshot, newest.reset or newest.snapshot.recorded_at)

    def remember(self, snapshot: RiskSnapshot) -> Item:
        """Keep the newest snapshot of its trader, and queue nothing."""
        trader = self._traders.get(snapshot.trader_id) or self._meet(snapshot.trader_id)
        reset = snapshot.last_reset_time
        if reset is None:
            reset = self._first_reset(snapshot) if trader.newest is None else trader.newest.reset
        trader.newest = item = Item(snapshot, reset=reset, done=True)
        return item

    def conflate(self) -> int:
        """Merge whatever may be dropped into the next of its trader. Returns the room made."""
        before = self.depth
        for lane in self.lanes:
            newer: dict[str, Item] = {}
            kept: deque[Item] = deque()
            for item in reversed(lane.queue):
                heir = newer.get(item.snapshot.trader_id)
                if (
                    heir is not None
                    and heir.life == item.life
                    and not (item.changed or item.sent or heir.sent)
                ):
                    heir.merged += item.merged + 1
                    heir.segment = min(heir.segment, item.segment)
                    heir.since = item.since
                    item.into = heir
                    self.conflated += 1
                    self.depth -= 1
                else:
                    newer[item.snapshot.trader_id] = item
                    kept.appendleft(item)
            lane.queue = kept
        return before - self.depth

    def _first_reset(self, snapshot: RiskSnapshot) -> datetime:
        """Of a trader's first snapshot that has no last_reset_time."""
        return self.loaded_resets.get(snapshot.trader_id, snapshot.recorded_at)

    def _meet(self, trader_id: str) -> Trader:
        lane = self.lanes[partition_of(trader_id, len(self.lanes))]
        trader = self._traders[trader_id] = Trader(lane)
        return trader

    def _replace(self, trader: Trader, item: Item, newer: Item) -> None:
        """The newest item of a trader becomes a newer one in its place, and stands for both."""
        item.snapshot, item.reset = newer.snapshot, newer.reset
        item.changed = newer.changed
        item.merged += 1
        self.conflated += 1


def _differ(before: Item | None, snapshot: RiskSnapshot) -> bool:
    """Whether what must never be dropped differs: the pause, its end, the reason."""
    if before is None:
        return True
    one = before.snapshot
    return (
        one.trading_paused != snapshot.trading_paused
        or one.paused_until != snapshot.paused_until
        or one.reason != snapshot.reason
    )
