"""Reads ahead and acknowledges behind, while the database works."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Any, Self

from risk_worker.drain.batch import Batch, Outcome, decode_entries
from risk_worker.drain.ports import Source


class Prefetcher:
    """While the database works on what was read, acknowledges what was read before and reads and decodes what
    comes next.

    Only where there is a backlog. Without one what is read later is more, and what is acknowledged at once is
    sooner out of the way.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, "source")  # one: what is submitted happens in this order
        self._coming: Future[list[Batch]] | None = None
        self._acknowledging: Future[None] | None = None

    def next(self) -> list[Batch]:
        """The next batches, one of each stream that has something; empty if nothing came for a while."""
        coming, self._coming = self._coming, None
        if coming:
            batches = coming.result()
        else:
            self._acknowledged()
            batches = self._read(wait=True)
        if self._source.more:
            self._coming = self._thread.submit(self._read, wait=False)
        return batches

    @property
    def reads_ahead(self) -> bool:
        """Whether there is a backlog: what comes after the last next() is being read already."""
        return self._coming is not None

    def acknowledge(self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        """Acknowledge committed batches, now or while the next ones are being stored."""
        self._acknowledged()
        if self._coming is None:
            self._source.acknowledge(batches, outcomes, at)
        else:
            self._acknowledging = self._thread.submit(self._source.acknowledge, batches, outcomes, at)

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

    def _read(self, *, wait: bool) -> list[Batch]:
        return self._source.examine(
            [decode_entries(stream, entries) for stream, entries in self._source.read(wait=wait)]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown()
