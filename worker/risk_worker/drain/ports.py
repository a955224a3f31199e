"""The two sides of the drain, as Protocols: where entries come from, and where rows go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from risk_worker.drain.batch import Batch, Outcome, StreamEntry


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
        """Make dead letters of rows that are well-formed, but that no producer sent."""

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
