"""What save() costs the trader: microseconds in the caller's thread, beside queue.put_nowait() and a bare
deque.append() in the same run.

    python -m benchmarks.save_cost [--count 20000]

Each row is `count` calls at an even pace, each timed alone, less what reading the clock costs. put_nowait()
has a thread that takes away what it puts, as save() has its flusher.
"""

from __future__ import annotations

import argparse
import logging
import queue
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import perf_counter_ns

from prometheus_client import CollectorRegistry

from risk_devkit.embedded import EmbeddedValkey
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.session.buffer import OnFull
from risk_producer.spool.spool import Fsync

Call = Callable[[RiskSnapshot], object]
Case = AbstractContextManager[Call]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.save_cost", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="calls a row (default 20,000)")
    count = parser.parse_args().count
    logging.getLogger("riskstream").setLevel(logging.CRITICAL + 1)
    print(f"{'us':<40}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}")
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder)) as valkey:
        for name, rate, case in cases(valkey):
            with case as call:
                row(f"{name}, {rate:,}/s", measure(call, count, rate))


def cases(valkey: EmbeddedValkey) -> Iterator[tuple[str, int, Case]]:
    """The rows: name, calls a second, what is called."""
    for rate in (1_000, 20_000):
        yield "deque.append", rate, appending()
        yield "queue.put_nowait", rate, putting()
        yield "save", rate, saving(valkey)
        yield "RiskSnapshot() and save", rate, making(valkey)
        yield "save, persistence off", rate, saving(None)
    yield "save, spool, fsync never", 20_000, saving(valkey, spool_fsync="never")
    yield "save, spool, fsync interval", 20_000, saving(valkey, spool_fsync="interval")
    yield "save, spool, fsync always", 1_000, saving(valkey, spool_fsync="always")
    yield "save, stream full, refuse", 20_000, saving(valkey, on_full="refuse", stream_maxlen=1)
    yield "save, stream full, conflate", 20_000, saving(valkey, on_full="conflate", stream_maxlen=1)
    yield "save, Redis hangs, room", 20_000, saving(valkey, pause=True, buffer_size=1_000_000)
    yield "save, Redis hangs, refuse", 20_000, saving(valkey, pause=True, on_full="refuse")
    yield "save, Redis hangs, conflate", 20_000, saving(valkey, pause=True, on_full="conflate")


def measure(call: Call, count: int, rate: int) -> list[float]:
    """Sorted costs in microseconds."""
    snapshots = [made(number) for number in range(200)]
    for snapshot in snapshots:
        call(snapshot)
    clock = sorted(-(perf_counter_ns() - perf_counter_ns()) for _ in range(10_000))[5_000]
    step_ns = 1_000_000_000 // rate
    costs = []
    due = perf_counter_ns()
    for number in range(min(count, rate * 5)):
        snapshot = snapshots[number % 200]
        due += step_ns
        while perf_counter_ns() < due:
            if due - perf_counter_ns() > 200_000:
                threading.Event().wait(0.0001)
        began = perf_counter_ns()
        call(snapshot)
        costs.append(max(0, perf_counter_ns() - began - clock) / 1000)
    return sorted(costs)


def row(name: str, costs: list[float]) -> None:
    """Print one."""

    def quantile(share: float) -> float:
        return costs[min(len(costs) - 1, int(len(costs) * share))]

    print(
        f"{name:<40}{quantile(0.5):10.2f}{quantile(0.99):10.2f}{quantile(0.999):10.2f}{costs[-1]:10.1f}",
        flush=True,
    )


def made(number: int) -> RiskSnapshot:
    """A snapshot of one of 8 traders."""
    return RiskSnapshot(
        trader_id=f"t{number % 8}",
        daily_pnl=float(number),
        drawdown_pct=0.1,
        current_equity=1e5,
        peak_equity=1e5,
    )


@contextmanager
def appending() -> Iterator[Call]:
    """deque.append()."""
    yield deque[RiskSnapshot](maxlen=100_000).append


@contextmanager
def putting() -> Iterator[Call]:
    """queue.put_nowait(), with a thread that takes away."""
    waiting: queue.Queue[RiskSnapshot | None] = queue.Queue()

    def take() -> None:
        while waiting.get() is not None:
            pass

    thread = threading.Thread(target=take)
    thread.start()
    yield waiting.put_nowait
    waiting.put(None)
    thread.join()


@contextmanager
def making(valkey: EmbeddedValkey) -> Iterator[Call]:
    """RiskSnapshot() of the fields that have no default, and RiskProducer.save() of it."""
    with saving(valkey) as save:
        yield lambda like: save(
            RiskSnapshot(
                trader_id=like.trader_id,
                daily_pnl=like.daily_pnl,
                drawdown_pct=like.drawdown_pct,
                current_equity=like.current_equity,
                peak_equity=like.peak_equity,
            )
        )


@contextmanager
def saving(
    valkey: EmbeddedValkey | None,
    *,
    pause: bool = False,
    on_full: OnFull = "block",
    stream_maxlen: int = 1_000_000,
    buffer_size: int = 1_024,
    spool_fsync: Fsync | None = None,
) -> Iterator[Call]:
    """RiskProducer.save()."""
    spool = tempfile.TemporaryDirectory() if spool_fsync else None
    producer = RiskProducer(
        valkey.url if valkey else None,
        persistent=valkey is not None,
        on_full=on_full,
        stream_maxlen=stream_maxlen,
        buffer_size=buffer_size,
        spool_dir=spool.name if spool else None,
        spool_fsync=spool_fsync or "never",
        registry=CollectorRegistry(),
    )
    producer.save(made(0))
    producer.flush(5)
    if pause and valkey:
        valkey.pause()
    yield producer.save
    if pause and valkey:
        valkey.resume()
    producer.close(0.5)
    if spool:
        spool.cleanup()


if __name__ == "__main__":
    main()
