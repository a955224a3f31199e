"""Reads ahead and acknowledges behind, while the database works."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self

from risk_worker.drain.batch import Batch, Outcome, decode_entries
from risk_worker.drain.ports import Source


class Prefetcher:
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
        active: list[Future[Any]] = [f for f in (self._coming, self._acknowledging) if f is not None]
        self._coming = self._acknowledging = None
        wait(active)  # how they ended does not matter: what was not acknowledged comes again
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
