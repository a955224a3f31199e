"""A steady load on a producer, what became of it, and how long each partition stood still."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from risk_producer.contract.keys import Keys, partition_of
from risk_producer.contract.wire import decode
from risk_producer.transport.connect import RedisClient
from tests.support.factory import snapshot
from tests.support.producers import Producer

TICK_S = 0.01


class Steady:
    """Saves rate snapshots a second for some traders, in turn, in a thread of its own, to its end."""

    def __init__(self, producer: Producer, *, partitions: int, rate: int = 500, traders: int = 32) -> None:
        self.producer = producer
        self.partitions = partitions
        self.accepted: dict[str, int] = dict.fromkeys(map("trader-{}".format, range(traders)), 0)
        """trader_id -> snapshots that save() accepted; daily_pnl numbers them from 0."""
        self.rejected = 0
        self.stalls: dict[int, float] = defaultdict(float)
        """partition -> the longest that a snapshot of it has waited for Redis so far, seconds."""
        self._per_tick = max(1, round(rate * TICK_S))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def total(self) -> int:
        return sum(self.accepted.values())

    def forget_stalls(self) -> None:
        self.stalls.clear()

    def missing(self, client: RedisClient) -> int:
        """How many of what was accepted are not in the streams; AssertionError where one is there twice."""
        found: dict[str, list[float]] = defaultdict(list)
        for partition in range(self.partitions):
            entries: Any = client.xrange(Keys(partition).snapshots)
            for _, fields in entries:
                wire = decode(fields[b"s"])
                found[wire.trader_id].append(wire.daily_pnl)
        missing = 0
        for trader_id, count in self.accepted.items():
            numbers = found[trader_id]
            assert numbers == sorted(set(numbers)), f"{trader_id} is out of order, or repeated"
            missing += len(set(range(count)) - {int(number) for number in numbers})
        return missing

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Save no more."""
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        names = list(self.accepted)
        at, due = 0, time.monotonic()
        while not self._over.is_set():
            for _ in range(self._per_tick):
                name = names[at % len(names)]
                at += 1
                if self.producer.save(snapshot(name, self.accepted[name])):
                    self.accepted[name] += 1
                else:
                    self.rejected += 1
            self._look()
            due = max(due + TICK_S, time.monotonic() - 1)
            self._over.wait(max(0.0, due - time.monotonic()))

    def _look(self) -> None:
        session: Any = self.producer.inner._engine.session  # type: ignore[attr-defined]
        now = time.monotonic()
        for partition, queue in session._buffer.queues.items():
            with suppress(IndexError):
                self.stalls[partition] = max(self.stalls[partition], now - queue.items[0].since)


def traders_by_partition(partitions: int) -> dict[int, str]:
    """partition -> a trader of it, for all partitions."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        name = f"of-{number}"
        found.setdefault(partition_of(name, partitions), name)
        number += 1
    return found
