"""The two sides of the drain, as Protocols: where entries come from, and where rows go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from risk_worker.drain.batch import Batch, Outcome, StreamEntry

Piece = tuple[str, Sequence[StreamEntry]]
"""A stream, and what comes next in it: at least one entry."""


class Source(Protocol):
    """The streams of a share of the partitions, as one consumer sees them.

    All methods may raise SourceUnavailable: none of the streams can be read. A stream that alone is in
    trouble is left out for a while, and is the source's own business.
    """

    @property
    def where(self) -> str:
        """Where the entries wait, for a person."""

    @property
    def more(self) -> bool:
        """Whether the last read() gave as many entries as it may, so that more are to be expected."""

    def read(self, *, wait: bool = True) -> Sequence[Piece]:
        """What comes next, from each stream's beginning; empty if nothing came (with wait: for a while)."""

    def examine(self, batches: Sequence[Batch]) -> list[Batch]:
        """Make dead letters of rows that are well-formed, but that no producer sent.

        Returns the batches of which that is known; the others are not to be stored, and come again.
        """

    def rewind(self) -> None:
        """Read again what is not acknowledged: something after read() went wrong."""

    def acknowledge(self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        """The batches are committed: take them off their streams and count them. May be repeated.

        at: when the COMMIT came.
        """

    def failed(self, batches: Sequence[Batch]) -> None:
        """Count a try to store the batches that failed."""


class Transaction(Protocol):
    """The rows of some batches are in the database, and not committed yet."""

    def commit(self) -> list[Outcome] | None:
        """The second half of save_all(), in any thread. None: nothing is stored, and save_all() has to."""

    def abandon(self) -> None:
        """Nothing of it is to be stored."""


class Store(Protocol):
    """The database."""

    def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Store the batches in one transaction; an outcome for each.

        May be repeated: what is stored already is left alone. Raises StoreUnavailable or StoreMisconfigured;
        then nothing of the batches is known to be stored.
        """

    def begin(self, batches: Sequence[Batch]) -> Transaction | None:
        """The first half of save_all(), while the transaction of the batches before may be committed.

        None: it cannot be done in two halves now, and save_all() has to. Raises as save_all(), which
        is not to be called while there is a transaction.
        """

    def cut(self) -> None:
        """From another thread: end what is waited for."""
