"""The drain: stream in, database out. It knows what a source and a store promise, and no driver."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep

from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.ports import Source, Store
from risk_worker.drain.prefetch import Prefetcher
from risk_worker.drain.retry import OutageLog, RetryPolicy


def drain(
    source: Source,
    store: Store,
    *,
    stop: threading.Event,
    over: Callable[[], bool],
    policy: RetryPolicy | None = None,
    outage: OutageLog | None = None,
) -> int:
    """Work until the time slice is over or stop is set; the batch in hand is always finished.

    Returns how many entries were stored, dead letters included. An outage of either side is logged when it
    begins, while it lasts and when it ends; the time slice may end amid it, as it may be of this partition
    alone. outage: the log of the time slices before.
    """
    policy = policy or RetryPolicy()
    outage = outage or OutageLog(policy)
    stored = 0
    with Prefetcher(source) as prefetcher, _gc_thresholds():
        while not stop.is_set() and not over():
            try:
                batch = prefetcher.next()
                if batch:
                    outcome = policy.save(store, batch, gives_up=stop.is_set, on_failure=source.failed)
                    prefetcher.acknowledge(batch, outcome)
                    stored += len(batch)
            except (SourceUnavailable, StoreUnavailable, StoreMisconfigured) as error:
                prefetcher.rewind()
                _pause(outage.record_failure(error, source.stream), lambda: stop.is_set() or over())
            else:
                outage.record_success()
    return stored


@contextlib.contextmanager
def _gc_thresholds() -> Iterator[None]:
    """A batch is tens of thousands of objects without a cycle: looking for cycles among them a hundred times
    a batch, as Python does by default, took a fifth of the worker's time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _pause(seconds: float, ends: Callable[[], bool]) -> None:
    """Wait, but not on when ends() is true.

    Not by stop.wait(): a signal handler sets stop in this thread, and would wait for the lock that the
    interrupted wait() holds.
    """
    until = monotonic() + seconds
    while not ends() and (left := until - monotonic()) > 0:
        sleep(min(left, 0.05))
