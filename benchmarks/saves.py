"""What save() takes from the caller's thread, and the yardstick: queue.put_nowait()."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter_ns

from prometheus_client import CollectorRegistry

from benchmarks.rows import snapshot
from benchmarks.servers import Servers
from risk_producer import RiskProducer, RiskSnapshot


def save_times_us(servers: Servers) -> tuple[float, float]:
    """(p50, p99) of save() at 5,000/s, Redis there. Microseconds."""
    servers.empty()
    with RiskProducer(servers.valkey.url, registry=CollectorRegistry()) as producer:
        return _times_us(producer.save)


def put_nowait_times_us() -> tuple[float, float]:
    """(p50, p99) of put_nowait() with a thread that takes everything out again."""
    waiting: queue.Queue[RiskSnapshot | None] = queue.Queue(1_024)

    def take() -> None:
        while waiting.get() is not None:
            pass

    taker = threading.Thread(target=take)
    taker.start()
    times = _times_us(waiting.put_nowait)
    waiting.put(None)
    taker.join()
    return times


def _times_us(call: Callable[[RiskSnapshot], object]) -> tuple[float, float]:
    snapshots = [snapshot(number) for number in range(10_000)]
    took = []
    for made in snapshots:
        began = perf_counter_ns()
        call(made)
        took.append(perf_counter_ns() - began)
        while perf_counter_ns() - began < 200_000:  # 5,000 a second, without giving up the processor
            pass
    cuts = quantiles(took, n=100)
    return cuts[49] / 1000, cuts[98] / 1000
