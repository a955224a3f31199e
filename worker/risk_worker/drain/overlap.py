"""Stores batches in their order: in a backlog, the rows of the next while the ones before are committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Final

from risk_worker.drain.batch import Batch, Outcome
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable
from risk_worker.drain.ports import Store, Transaction
from risk_worker.drain.uncommitted import Uncommitted

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Batches = Sequence[Batch]

_REST_S: Final = 5.0
"""After a begin() that failed, for so long batches are stored one after the other."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Committing:
    batches: Batches
    committed: Future[_Committed | None]


@dataclass(frozen=True, slots=True)
class _Committed:
    outcomes: list[Outcome]
    at: datetime
    """When the COMMIT came, which finish() may notice later."""


class Overlap:
    """At any time one transaction is being committed, and the next takes its rows.

    COMMITs come in the order of the batches. Where a transaction fails, the one after it is rolled back, and
    the batches of both are stored one after the other by `save`, which tries again and finds the rows at
    fault.
    """

    def __init__(
        self,
        store: Store,
        save: Callable[[Batches], list[Outcome]],
        failed: Callable[[Batches, StoreUnavailable], None],
        committed: Callable[[Batches, list[Outcome], datetime], None],
        uncommitted: Uncommitted,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """save: stores batches; what it raises is passed on. committed: called for all, in their order, with
        when the COMMIT came.

        failed: called where a half of a transaction failed, before `save`. uncommitted: learns since when
        something is in hand.
        """
        self._store = store
        self._save = save
        self._failed = failed
        self._committed = committed
        self._clock = clock
        self._now = now
        self._next_begin = 0.0
        self._storing = False
        """Whether store() has something in hand that is not committed."""
        self._uncommitted = uncommitted
        self._thread = ThreadPoolExecutor(1, "commit")
        self._committing: _Committing | None = None
        self._begun: Transaction | None = None

    @property
    def is_committing(self) -> bool:
        """Whether what store() was called with is not committed yet: finish() waits for it."""
        return self._committing is not None

    def store(self, batches: Batches, *, more: bool) -> None:
        """Store the next batches. more: others follow at once, so the COMMIT may come after this call."""
        self._storing = True
        self._uncommitted.begin()
        if more or self._committing:
            self._begin(batches)
        self.finish()
        self._uncommitted.begin()
        begun, self._begun = self._begun, None
        if begun is None:
            self._save_now(batches)
            return
        self._storing = False
        self._committing = _Committing(batches, self._thread.submit(self._commit, begun))
        if not more:
            self.finish()

    def finish(self) -> None:
        """Wait for the COMMIT that is under way."""
        committing, self._committing = self._committing, None
        if committing is None:
            return
        committed = None
        try:
            committed = committing.committed.result()
        except StoreUnavailable as error:
            self._failed(committing.batches, error)
        except StoreMisconfigured:
            pass  # `save` says so
        if committed is None:
            self._abandon()  # it may hold a key that the other one needs
            self._save_now(committing.batches)
        else:
            self._report(committing.batches, committed)

    def forget(self) -> None:
        """Leave nothing under way, however it ends: what is not acknowledged is read again."""
        self._abandon()
        committing, self._committing = self._committing, None
        if committing is not None:
            with contextlib.suppress(StoreUnavailable, StoreMisconfigured):
                committing.committed.result()

    def _commit(self, begun: Transaction) -> _Committed | None:
        """In the other thread: Redis may not answer meanwhile, and then finish() comes late."""
        outcomes = begun.commit()
        if outcomes is None:
            return None
        at = self._now()
        self._uncommitted.end()
        if self._storing:
            self._uncommitted.begin()
        return _Committed(outcomes, at)

    def _save_now(self, batches: Batches) -> None:
        outcomes = self._save(batches)
        self._report(batches, _Committed(outcomes, self._now()))

    def _begin(self, batches: Batches) -> None:
        if self._clock() < self._next_begin:
            return
        try:
            self._begun = self._store.begin(batches)
        except StoreUnavailable as error:
            self._failed(batches, error)
            self._next_begin = self._clock() + _REST_S
        except StoreMisconfigured:
            self._next_begin = self._clock() + _REST_S  # `save` says so

    def _abandon(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.abandon()

    def _report(self, batches: Batches, committed: _Committed) -> None:
        self._uncommitted.end()
        self._committed(batches, committed.outcomes, committed.at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._store.cut()  # ended in the middle (a second SIGTERM): a COMMIT may wait for ever
            self._abandon()
        finally:
            self._thread.shutdown()
