"""The drain: stream in, database out. It knows what a source and a store promise, and no driver."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import monotonic, sleep
from typing import Any, Final, Protocol, Self

import backoff

from risk_worker.drain.batch import Batch, Outcome, StreamEntry, decode_entries

log = logging.getLogger("riskstream.drain")


class SourceUnavailable(Exception):
    """Redis cannot be reached, or cannot serve just now. Nothing is lost: read again later."""


class StoreUnavailable(Exception):
    """The database cannot store just now. Nothing is lost: the entries stay in the stream."""


class StoreMisconfigured(Exception):
    """Somebody has to act before the database can store; the message says what."""


class Source(Protocol):
    """The stream of one partition, as one consumer sees it. All methods may raise SourceUnavailable."""

    @property
    def stream(self) -> str: ...

    @property
    def more(self) -> bool:
        """Whether the last read() gave as many entries as it may, so that more are to be expected."""

    def read(self, *, wait: bool = True) -> Sequence[StreamEntry]:
        """What comes next, from the stream's beginning; empty if nothing came (with wait: for a while)."""

    def examine(self, batch: Batch) -> None:
        """Make dead letters of what is well-formed and yet no producer's."""

    def rewind(self) -> None:
        """Read again what is not acknowledged: something after read() went wrong."""

    def acknowledge(self, batch: Batch, outcome: Outcome) -> None:
        """The batch is committed: take it off the stream and count it. May be repeated."""

    def failed(self, batch: Batch) -> None:
        """Count a try to store the batch that failed."""


class Store(Protocol):
    """The database."""

    def save(self, batch: Batch) -> Outcome:
        """Store the batch in one transaction. May be repeated: what is stored already is left alone.

        Raises StoreUnavailable or StoreMisconfigured; then nothing of the batch is known to be stored.
        """


class Patience:
    """How long to go on trying, and how long to wait in between. Times in seconds."""

    def __init__(self, *, retries: int = 5, base_s: float = 0.15, cap_s: float = 3.0) -> None:
        self.retries = retries
        self.base_s = base_s
        self.cap_s = cap_s


def drain(
    source: Source,
    store: Store,
    *,
    stop: threading.Event,
    over: Callable[[], bool],
    patience: Patience | None = None,
    outage: Outage | None = None,
) -> int:
    """Work until the shift is over or stop is set; the batch in hand is always finished.

    Returns how many entries were settled. An outage of either side is logged when it begins, while it
    lasts and when it ends; the shift may end amid it, as it may be of this partition alone.
    outage: that of the shifts before.
    """
    patience = patience or Patience()
    outage = outage or Outage(patience)
    settled = 0
    with _Pipelined(source) as pipelined, _rare_collections():
        while not stop.is_set() and not over():
            try:
                batch = pipelined.next()
                if batch:
                    outcome = _save(batch, source, store, stop=stop, patience=patience)
                    pipelined.acknowledge(batch, outcome)
                    settled += len(batch)
            except (SourceUnavailable, StoreUnavailable, StoreMisconfigured) as error:
                pipelined.rewind()
                outage.goes_on(error, source.stream)
                _pause(outage.wait_s, lambda: stop.is_set() or over())
            else:
                outage.ends()
    return settled


class _Pipelined:
    """While the database works on a batch, acknowledges the one before and reads and decodes the next.

    Only where there is a backlog. Without one a batch that is read later is larger, and one that is
    acknowledged at once is sooner out of the way.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, "source")  # one: what is submitted happens in this order
        self._coming: Future[Batch] | None = None
        self._acknowledging: Future[None] | None = None

    def next(self) -> Batch:
        """The next batch; empty if nothing came for a while."""
        coming, self._coming = self._coming, None
        batch = coming.result() if coming else None
        if not batch:
            self._acknowledged()
            batch = self._read(wait=True)
        if self._source.more:
            self._coming = self._thread.submit(self._read, wait=False)
        return batch

    def acknowledge(self, batch: Batch, outcome: Outcome) -> None:
        """Acknowledge a committed batch, now or while the next one is being stored."""
        self._acknowledged()
        self._acknowledging = self._thread.submit(self._source.acknowledge, batch, outcome)
        if self._coming is None:
            self._acknowledged()

    def rewind(self) -> None:
        """Forget what was read ahead and start again with what is not acknowledged."""
        under_way: list[Future[Any]] = [f for f in (self._coming, self._acknowledging) if f is not None]
        self._coming = self._acknowledging = None
        wait(under_way)  # how they ended does not matter: what was not acknowledged comes again
        self._source.rewind()

    def _acknowledged(self) -> None:
        acknowledging, self._acknowledging = self._acknowledging, None
        if acknowledging is not None:
            acknowledging.result()

    def _read(self, *, wait: bool) -> Batch:
        batch = decode_entries(self._source.stream, self._source.read(wait=wait))
        self._source.examine(batch)
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """A batch is tens of thousands of objects without a cycle: looking for cycles among them a hundred times
    a batch, as Python does by default, took a fifth of the worker's time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _save(
    batch: Batch, source: Source, store: Store, *, stop: threading.Event, patience: Patience
) -> Outcome:
    """store.save() with retries."""

    def failed(details: Any) -> None:
        log.warning("Could not store a batch of %d: %s", len(batch), details["exception"])
        source.failed(batch)

    retrying = backoff.on_exception(
        backoff.expo,
        StoreUnavailable,
        max_tries=patience.retries + 1,
        factor=patience.base_s,
        max_value=patience.cap_s,
        jitter=backoff.full_jitter,
        giveup=lambda _: stop.is_set(),
        on_backoff=failed,
        on_giveup=failed,
        logger=None,
    )
    outcome: Outcome = retrying(store.save)(batch)
    return outcome


class Outage:
    """Says when it began, why it goes on, and when it ended; waits a little longer each time in between."""

    SAY_AGAIN_S: Final = 60.0

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began: float | None = None
        self._next_wait_s = 0.0
        self._said = ""
        self._said_at = 0.0
        self.wait_s = 0.0
        """How long to wait before the next try."""

    def goes_on(self, error: Exception, stream: str) -> None:
        if self._began is None:
            self._began = monotonic()
            self._next_wait_s = self._patience.base_s
        if str(error) != self._said or monotonic() - self._said_at > self.SAY_AGAIN_S:
            self._said, self._said_at = str(error), monotonic()
            log.critical("Not storing: %s. Snapshots wait in the stream %s.", error, stream)
        self.wait_s = backoff.full_jitter(self._next_wait_s)
        self._next_wait_s = min(self._next_wait_s * 2, self._patience.cap_s)

    def ends(self) -> None:
        if self._began is not None:
            log.warning("Storing again after %.1f s.", monotonic() - self._began)
            self._began = None
            self._said = ""


def _pause(seconds: float, ends: Callable[[], bool]) -> None:
    """Wait, but not on when ends() is true.

    Not by stop.wait(): a signal handler sets stop in this thread, and would wait for the lock that the
    interrupted wait() holds.
    """
    until = monotonic() + seconds
    while not ends() and (left := until - monotonic()) > 0:
        sleep(min(left, 0.05))
