"""The bounded buffer between save() and the flusher. It knows its policy when full, and nothing of Redis.

Not thread-safe: its owner holds a lock, for moments only.

One queue a partition, each in the order of arrival. Where the number of partitions changes, what waits moves
to the queue of its trader's new partition. What is on its way to Redis stays in its queue until Redis has
confirmed it, so that nothing is ever between two places, and the bound is a bound on what memory holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Literal

from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace, partition_of
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.snapshot import RiskSnapshot, with_last_reset
from risk_producer.item import Item, State

OnFull = Literal["block", "refuse", "conflate"]


class PartitionQueue:
    """The items of one partition, the oldest first."""

    __slots__ = ("items", "keys")

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.items: deque[Item] = deque()


class Trader:
    """What the buffer knows of one trader."""

    __slots__ = ("confirmed", "left", "newest", "queue", "tail")

    def __init__(self, queue: PartitionQueue) -> None:
        self.queue = queue
        self.left = 0
        """Items in the queue of a former partition; until they are gone nothing of `queue` is sent."""
        self.newest: Item | None = None
        """The newest one accepted."""
        self.confirmed: Item | None = None
        """The newest one that Redis has."""
        self.tail: Item | None = None
        """The newest item, while it is queued."""


class Buffer:
    """Holds up to `size` snapshots."""

    def __init__(
        self, size: int, partitions: int, on_full: OnFull, keyspace: Keyspace = NO_NAMESPACE
    ) -> None:
        self.size = size
        self.partitioning = Partitioning.wished(partitions)
        self._keyspace = keyspace
        self.queues = {number: PartitionQueue(keyspace.keys(number)) for number in range(partitions)}
        """By partition. Those of a former number of partitions stay."""
        self.left = 0
        """Items in queues of former partitions of their traders."""
        self.depth = 0
        """Snapshots held: waiting, or on their way."""
        self.conflated = 0
        """Snapshots that were merged into a newer one."""
        self.incarnation = 0
        """The incarnation of the producer, which accepts the new snapshots."""
        self.loaded_resets: dict[str, datetime] = {}
        """last_reset_time of each trader that load() found."""
        self._conflating = on_full == "conflate"
        self._traders: dict[str, Trader] = {}
        self._unmoved: dict[str, Trader] = {}
        """Traders without items, as they were before the number of partitions changed: each gets its new
        queue when it is needed. save() waits for a change, which copies no more of them than references."""

    def put(self, snapshot: RiskSnapshot, now: float = 0.0) -> Item | None:
        """Append a snapshot; None where there is no room. Conflates first, if that is the policy."""
        trader = self._traders.get(snapshot.trader_id)
        if trader is None:
            trader = self._add_trader(snapshot.trader_id)
        reset = snapshot.last_reset_time
        if reset is None:
            newest = trader.newest
            reset = self._first_reset(snapshot) if newest is None else newest.reset
        item = Item(snapshot, self.incarnation, reset, now)
        if self._conflating:
            item.changed = _differ(trader.newest, snapshot)
        if self.depth >= self.size:
            if not self._conflating:
                return None
            tail = trader.tail
            if (
                tail is not None
                and not tail.changed
                and tail.state is State.WAITING
                and tail.incarnation == self.incarnation
            ):
                self._replace(trader, tail, item)
                return tail
            if not self.conflate():
                return None
        trader.queue.items.append(item)
        trader.newest = trader.tail = item
        self.depth += 1
        return item

    def restore(self, items: Sequence[Item]) -> None:
        """Queue what a spool held, whatever the size. None of it is ever merged: an earlier incarnation may
        have sent it already, and a survivor must not claim to stand for what is stored."""
        now = monotonic()
        for item in items:
            trader_id = item.snapshot.trader_id
            trader = self._trader(trader_id)
            item.since = now
            item.reset = item.snapshot.last_reset_time
            trader.queue.items.append(item)
            trader.newest = trader.tail = item
            self.depth += 1

    def confirm(self, queue: PartitionQueue, items: Sequence[Item], *, lost: bool = False) -> None:
        """Remove these items from a queue: Redis has them, or (lost) they cannot be sent.

        Whatever raises in here: all of them are removed, or none.
        """
        remaining, depth = queue.items, self.depth - len(items)
        if any(item is not other for item, other in zip(items, remaining, strict=False)):
            gone = set(items)  # they are behind those of a trader that is held back
            remaining = deque(item for item in remaining if item not in gone)
        in_place = remaining is queue.items
        traders = [self._trader(item.snapshot.trader_id) for item in items]
        steps = list(zip(items, traders, strict=True))
        left = self.left - sum(trader.queue is not queue for trader in traders) if self.left else 0
        state = State.LOST if lost else State.ARRIVED
        # From here on there is no call that could fail.
        for item, trader in steps:
            item.state = state
            if not lost:
                trader.confirmed = item
            if trader.tail is item:
                trader.tail = None
            if trader.left and trader.queue is not queue:
                trader.left -= 1
            if in_place:
                del remaining[0]
        queue.items = remaining
        self.depth = depth
        self.left = left

    def divide(self, partitioning: Partitioning) -> None:
        """Divide the traders by another number of partitions: what waits moves, in its order.

        What is on its way, or may have arrived, stays in its queue: it is asked for again there.
        """
        partitions = partitioning.partitions
        queues = self.queues | {
            number: PartitionQueue(self._keyspace.keys(number))
            for number in range(partitions)
            if number not in self.queues
        }
        stay: dict[PartitionQueue, deque[Item]] = {queue: deque() for queue in queues.values()}
        come: dict[PartitionQueue, deque[Item]] = {queue: deque() for queue in queues.values()}
        moved: dict[str, Trader] = {}
        for queue in self.queues.values():
            for item in queue.items:
                trader_id = item.snapshot.trader_id
                before, home = self._trader(trader_id), queues[partition_of(trader_id, partitions)]
                trader = moved.get(trader_id) or moved.setdefault(trader_id, _moved(before, home))
                if queue is before.queue is not home and item.state is State.WAITING:
                    come[home].append(item)
                else:
                    stay[queue].append(item)
                    trader.left += queue is not home
        unmoved = {**self._unmoved, **self._traders}
        for trader_id in moved:
            unmoved.pop(trader_id, None)
        # From here on there is no call that could fail.
        for queue, items in stay.items():
            items.extend(come[queue])
            queue.items = items
        self.left = sum(trader.left for trader in moved.values())
        self.queues, self.partitioning = queues, partitioning
        self._traders, self._unmoved = moved, unmoved

    def queue_of(self, trader_id: str) -> PartitionQueue:
        """The queue of a trader's partition."""
        return self.queues[partition_of(trader_id, self.partitioning.partitions)]

    def must_wait(self, queue: PartitionQueue, item: Item) -> bool:
        """Whether older items of this one's trader are still on their way to a former partition."""
        trader = self._trader(item.snapshot.trader_id)
        return trader.left > 0 and trader.queue is queue

    def cancel(self, item: Item) -> bool:
        """Remove an item as if it had never come. False: it is on its way, or has its seq already, or
        conflation relies on it."""
        trader = self._trader(item.snapshot.trader_id)
        items = trader.queue.items
        if item.state is not State.WAITING or item.seq or trader.left or item not in items:
            return False
        later = islice(items, items.index(item) + 1, None)
        survivor = next(
            (other for other in later if other.snapshot.trader_id == item.snapshot.trader_id), item
        )
        if item.merged or survivor.merged:
            return False
        items.remove(item)
        self.depth -= 1
        item.state = State.CANCELLED
        trader.newest, trader.tail = trader.confirmed, None
        for other in items:
            if other.snapshot.trader_id == item.snapshot.trader_id:
                other.changed = _differ(trader.newest, other.snapshot)
                trader.newest = trader.tail = other
        return True

    def oldest(self) -> Item | None:
        """The item that has waited for the longest."""
        heads = [queue.items[0] for queue in self.queues.values() if queue.items]
        return min(heads, key=lambda item: item.since, default=None)

    def items(self) -> list[Item]:
        """Everything held, the oldest of a partition first."""
        return [item for queue in self.queues.values() for item in queue.items]

    def newest(self, trader_id: str) -> RiskSnapshot | None:
        """The newest snapshot accepted of a trader, sent or not."""
        trader = self._traders.get(trader_id) or self._unmoved.get(trader_id)
        newest = None if trader is None else trader.newest
        if newest is None:
            return None
        if newest.snapshot.last_reset_time is not None:
            return newest.snapshot
        return with_last_reset(newest.snapshot, newest.reset or newest.snapshot.recorded_at)

    def remember(self, snapshot: RiskSnapshot) -> Item:
        """Keep the newest snapshot of its trader, and queue nothing."""
        trader = self._trader(snapshot.trader_id)
        reset = snapshot.last_reset_time
        if reset is None:
            reset = self._first_reset(snapshot) if trader.newest is None else trader.newest.reset
        trader.newest = item = Item(snapshot, reset=reset, state=State.ARRIVED)
        return item

    def conflate(self) -> int:
        """Merge whatever may be dropped into the next of its trader. Returns the room made."""
        before = self.depth
        for queue in self.queues.values():
            newer: dict[str, Item] = {}
            kept: deque[Item] = deque()
            for item in reversed(queue.items):
                survivor = newer.get(item.snapshot.trader_id)
                if (
                    survivor is not None
                    and survivor.incarnation == item.incarnation
                    and not item.changed
                    and item.state is State.WAITING
                    and survivor.state is State.WAITING
                ):
                    survivor.merged += item.merged + 1
                    survivor.segment = min(survivor.segment, item.segment)
                    survivor.since = item.since
                    item.into, item.state = survivor, State.MERGED
                    self._leave(item, queue)
                    self.conflated += 1
                    self.depth -= 1
                else:
                    newer[item.snapshot.trader_id] = item
                    kept.appendleft(item)
            queue.items = kept
        return before - self.depth

    def _first_reset(self, snapshot: RiskSnapshot) -> datetime:
        """Of a trader's first snapshot that has no last_reset_time."""
        return self.loaded_resets.get(snapshot.trader_id, snapshot.recorded_at)

    def _add_trader(self, trader_id: str) -> Trader:
        queue, before = self.queue_of(trader_id), self._unmoved.pop(trader_id, None)
        trader = Trader(queue) if before is None else _moved(before, queue)
        self._traders[trader_id] = trader
        return trader

    def _trader(self, trader_id: str) -> Trader:
        return self._traders.get(trader_id) or self._add_trader(trader_id)

    def _leave(self, item: Item, queue: PartitionQueue) -> None:
        """An item leaves a queue: count it, where that is of a former partition."""
        trader = self._trader(item.snapshot.trader_id)
        if trader.left and trader.queue is not queue:
            trader.left -= 1
            self.left -= 1

    def _replace(self, trader: Trader, item: Item, newer: Item) -> None:
        """The newest item of a trader becomes a newer one in its place, and stands for both."""
        item.snapshot, item.reset = newer.snapshot, newer.reset
        item.changed = newer.changed
        item.merged += 1
        self.conflated += 1


def _moved(trader: Trader, queue: PartitionQueue) -> Trader:
    """A trader in its new partition; what is left in the former one is still to be counted."""
    moved = Trader(queue)
    moved.newest, moved.confirmed, moved.tail = trader.newest, trader.confirmed, trader.tail
    return moved


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
