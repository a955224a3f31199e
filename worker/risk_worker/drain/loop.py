"""The drain: streams in, database out. It knows what a source and a store promise, and no driver."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from time import monotonic, sleep

from risk_worker.drain.batch import Batch, Outcome
from risk_worker.drain.dead_log import log_dead_letters
from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.overlap import Overlap
from risk_worker.drain.ports import Source, Store
from risk_worker.drain.prefetch import Prefetcher
from risk_worker.drain.retry import OutageLog, RetryPolicy
from risk_worker.drain.uncommitted import Uncommitted


def drain(
    source: Source,
    store: Store,
    *,
    stop: threading.Event,
    over: Callable[[], bool],
    policy: RetryPolicy | None = None,
    outage: OutageLog | None = None,
    uncommitted: Uncommitted | None = None,
) -> int:
    """Work until the time slice is over or stop is set; what is being stored then is finished.

    Returns how many entries were stored, dead letters included. An outage of either side is logged when it
    begins, while it lasts and when it ends; the time slice may end amid it. outage: the log of the time
    slices before. uncommitted: learns of what is in hand.
    """
    policy = policy or RetryPolicy()
    outage = outage or OutageLog()
    uncommitted = uncommitted or Uncommitted()
    stored = 0

    def ends() -> bool:
        return stop.is_set() or over()

    def save(batches: Sequence[Batch]) -> list[Outcome]:
        return policy.save(store, batches, gives_up=ends, on_failure=source.failed)

    def failed(batches: Sequence[Batch], error: StoreUnavailable) -> None:
        policy.record_failure(batches, error)
        source.failed(batches)

    def committed(batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        nonlocal stored
        prefetcher.acknowledge(batches, outcomes, at)
        log_dead_letters(batches, outcomes)
        stored += sum(map(len, batches))
        outage.record_success()

    with (
        Prefetcher(source) as prefetcher,
        Overlap(store, save, failed, committed, uncommitted) as overlap,
        _gc_thresholds(),
    ):
        while overlap.is_committing or not ends():
            try:
                batches = [] if ends() else prefetcher.next()
                if batches:
                    overlap.store(batches, more=prefetcher.reads_ahead)
                else:
                    overlap.finish()
                    uncommitted.end()  # what could not be stored was stored by another worker
                    outage.record_success()
            except (SourceUnavailable, StoreUnavailable, StoreMisconfigured) as error:
                if isinstance(error, SourceUnavailable):
                    uncommitted.end()
                overlap.forget()
                prefetcher.rewind()
                if isinstance(error, StoreUnavailable) and ends():
                    continue  # it was not tried as often as an outage is: the next time slice goes on with it
                _pause(outage.record_failure(error, source.where, policy), ends)
    uncommitted.end()
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
