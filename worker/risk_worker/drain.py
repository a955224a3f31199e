"""The drain: stream in, database out. It knows what a source and a store promise, and no driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

import backoff

from risk_worker.batch import Batch, Entry, Outcome, decode_entries

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

    def read(self) -> Sequence[Entry]:
        """What comes next, from the stream's beginning; empty if nothing came for a while."""

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
) -> int:
    """Work until the shift is over or stop is set; the batch in hand is always finished.

    Returns how many entries were settled. An outage of either side is waited out: it is logged when it
    begins and when it ends, and the shift does not end during one.
    """
    patience = patience or Patience()
    outage = _Outage(stop, patience)
    settled = 0
    while not stop.is_set() and (outage.under_way or not over()):
        try:
            entries = source.read()
            if entries:
                batch = decode_entries(source.stream, entries)
                outcome = _save(batch, source, store, stop=stop, patience=patience)
                source.acknowledge(batch, outcome)
                settled += len(batch)
        except (SourceUnavailable, StoreUnavailable, StoreMisconfigured) as error:
            source.rewind()
            outage.goes_on(error)
        else:
            outage.ends()
    return settled


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


class _Outage:
    """Says once that it began and once that it ended, and waits a little longer each time in between."""

    def __init__(self, stop: threading.Event, patience: Patience) -> None:
        self._stop = stop
        self._patience = patience
        self._began: float | None = None
        self._wait_s = 0.0
        self._said = ""

    @property
    def under_way(self) -> bool:
        return self._began is not None

    def goes_on(self, error: Exception) -> None:
        if self._began is None:
            self._began = monotonic()
            self._wait_s = self._patience.base_s
        if str(error) != self._said:
            self._said = str(error)
            log.critical("Not storing: %s. Snapshots wait in the stream.", error)
        self._stop.wait(backoff.full_jitter(self._wait_s))
        self._wait_s = min(self._wait_s * 2, self._patience.cap_s)

    def ends(self) -> None:
        if self._began is not None:
            log.warning("Storing again after %.1f s.", monotonic() - self._began)
            self._began = None
            self._said = ""
