"""How things stand, read from Redis' own counters: accepted, stored, in flight, rates, latency."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from time import monotonic
from typing import Any, Final

from risk_producer.contract import counters as names
from risk_producer.contract.keys import Keys
from risk_producer.transport.connect import RedisClient
from risk_worker.stream.counters import number, numbers

RATE_WINDOW_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class CounterSample:
    """One look at the meter. All but in_flight count from the meter's beginning."""

    accepted: int
    stored: int
    conflated: int
    dead: int
    duplicates: int
    in_flight: int
    rows_per_s: float
    p50_ms: float | None
    """Half of the snapshots stored took at most this long from recorded_at to COMMIT; None: no snapshot."""
    p99_ms: float | None


class Meter:
    """Reads the counters of all partitions; what is no number counts as 0. Raises one of REDIS_ERRORS.

    Not thread-safe.
    """

    def __init__(self, client: RedisClient, partitions: int = 1) -> None:
        self._client = client
        self._partitions = [Keys(partition) for partition in range(partitions)]
        self._counters_before: dict[str, int] = {}
        self._buckets_before: dict[float, int] = {}
        self._stored_at: deque[tuple[float, int]] = deque()
        self._counters_before, self._buckets_before, _ = self._look()

    def read(self) -> CounterSample:
        """Look now."""
        counters, buckets, in_flight = self._look()
        since = {name: count - self._counters_before.get(name, 0) for name, count in counters.items()}
        latencies = {bound: count - self._buckets_before.get(bound, 0) for bound, count in buckets.items()}
        stored = since.get(names.STORED, 0)
        return CounterSample(
            accepted=since.get(names.ACCEPTED, 0),
            stored=stored,
            conflated=since.get(names.CONFLATED, 0),
            dead=since.get(names.DEAD, 0),
            duplicates=since.get(names.DUPLICATES, 0),
            in_flight=in_flight,
            rows_per_s=self._rate(stored),
            p50_ms=quantile(latencies, 0.5),
            p99_ms=quantile(latencies, 0.99),
        )

    def _look(self) -> tuple[dict[str, int], dict[float, int], int]:
        pipeline = self._client.pipeline(transaction=True)
        for keys in self._partitions:
            pipeline.hgetall(keys.counters)
            pipeline.hgetall(keys.latency_buckets)
            pipeline.xlen(keys.snapshots)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        counters: Counter[str] = Counter()
        buckets: Counter[float] = Counter()
        unreadable: list[str] = []
        in_flight = 0
        for keys, at in zip(self._partitions, range(0, len(answers), 3), strict=True):
            of_counters, of_buckets, length = answers[at : at + 3]
            for name, count in numbers(of_counters, keys.counters, unreadable).items():
                counters[name] += int(count)
            for bound, count in numbers(of_buckets, keys.latency_buckets, unreadable).items():
                if (upper := number(bound) if bound != names.LATENCY_BUCKETS[-1] else inf) is not None:
                    buckets[upper] += int(count)
            in_flight += length if isinstance(length, int) else 0
        if all(isinstance(answer, Exception) for answer in answers):
            raise answers[0]
        return dict(counters), dict(buckets), in_flight

    def _rate(self, stored: int) -> float:
        now = monotonic()
        self._stored_at.append((now, stored))
        while self._stored_at[0][0] < now - RATE_WINDOW_S and len(self._stored_at) > 2:
            self._stored_at.popleft()
        began, stored_before = self._stored_at[0]
        return (stored - stored_before) / (now - began) if now > began else 0.0


def quantile(buckets: dict[float, int], q: float) -> float | None:
    """The upper bound of the bucket in which the quantile lies; None where all are empty."""
    bounds = sorted(buckets)
    cumulative = list(accumulate(buckets[bound] for bound in bounds))
    if not cumulative or cumulative[-1] == 0:
        return None
    return bounds[bisect_left(cumulative, q * cumulative[-1])]
