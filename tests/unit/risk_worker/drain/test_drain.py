"""The loop alone, between a source and a store that do what they are told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

import pytest

from risk_worker.drain.batch import Batch, Outcome, StreamEntry
from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.loop import drain
from risk_worker.drain.ports import Piece
from risk_worker.drain.retry import OutageLog, RetryPolicy
from risk_worker.drain.uncommitted import Uncommitted
from tests.support.clock import FakeClock
from tests.support.factory import entry

QUICK = RetryPolicy(retries=2, base_s=0.001, cap_s=0.002)


class ScriptedSource:
    """Hands out what is not acknowledged, two entries at a time."""

    where = "the stream risk:{0}:snapshots"
    more = False

    def __init__(self, entries: Sequence[StreamEntry]) -> None:
        self.pending = list(entries)
        self.steps: list[str] = []
        self.faults: dict[str, list[Exception]] = {}
        self._handed = 0

    def _fault(self, step: str) -> None:
        self.steps.append(step)
        if self.faults.get(step):
            raise self.faults[step].pop(0)

    def read(self, *, wait: bool = True) -> Sequence[Piece]:
        self._fault("read")
        entries = self.pending[self._handed : self._handed + 2]
        self._handed += len(entries)
        self.more = len(entries) == 2
        return [("risk:{0}:snapshots", entries)] if entries else []

    def examine(self, batches: Sequence[Batch]) -> list[Batch]:
        return list(batches)

    def rewind(self) -> None:
        self.steps.append("rewind")
        self._handed = 0

    def acknowledge(self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        self._fault("acknowledge")
        [batch] = batches
        done = {*(row.entry_id for row in batch.rows), *(letter.entry_id for letter in batch.dead)}
        self.pending = [e for e in self.pending if e.id not in done]
        self._handed -= len(done)

    def failed(self, batches: Sequence[Batch]) -> None:
        self.steps.append("failed")

    def empty(self) -> bool:
        return not self.pending


class ScriptedStore:
    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.saved: list[int] = []

    def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
        if self.faults:
            raise self.faults.pop(0)
        self.saved += [row.snapshot.seq for batch in batches for row in batch.rows]
        return [Outcome(batch.dead, duplicates=0) for batch in batches]

    def begin(self, batches: Sequence[Batch]) -> None:
        """All is stored at once: test_overlap.py has the other way."""

    def cut(self) -> None:
        raise AssertionError


def run(
    source: ScriptedSource,
    store: ScriptedStore,
    over: Callable[[], bool] | None = None,
    outage: OutageLog | None = None,
    uncommitted: Uncommitted | None = None,
) -> int:
    return drain(
        source,
        store,
        stop=threading.Event(),
        over=over or source.empty,
        policy=QUICK,
        outage=outage,
        uncommitted=uncommitted,
    )


def test_everything_is_stored_in_order_and_acknowledged_after_the_commit() -> None:
    source, store = ScriptedSource([entry(n) for n in range(1, 6)]), ScriptedStore()
    assert run(source, store) == 5
    assert store.saved == [1, 2, 3, 4, 5]
    assert source.steps.count("acknowledge") == 3


def test_only_where_there_is_a_backlog_another_thread_acknowledges() -> None:
    own = threading.current_thread()
    seen: list[bool] = []

    class Watched(ScriptedSource):
        def acknowledge(self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
            seen.append(threading.current_thread() is own)
            super().acknowledge(batches, outcomes, at)

    assert run(Watched([entry(1)]), ScriptedStore()) == 1
    assert seen == [True]
    seen.clear()
    assert run(Watched([entry(n) for n in range(1, 6)]), ScriptedStore()) == 5
    assert False in seen


def test_a_passing_database_error_is_retried_and_counted() -> None:
    source = ScriptedSource([entry(1)])
    store = ScriptedStore(StoreUnavailable("gone"), StoreUnavailable("gone"))
    assert run(source, store) == 1
    assert source.steps.count("failed") == 2


def test_after_the_retries_the_entries_stay_pending_and_come_again(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource([entry(1), entry(2), entry(3)])
    store = ScriptedStore(*[StoreUnavailable("gone")] * 7)
    with caplog.at_level(logging.WARNING):
        assert run(source, store) == 3
    assert store.saved == [1, 2, 3]
    assert "rewind" in source.steps
    assert [r.levelname for r in caplog.records].count("CRITICAL") == 1, "an outage is said once"
    assert "The worker stores again" in caplog.text


def test_a_time_slice_may_end_during_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, store = ScriptedSource([entry(1)]), ScriptedStore()
    source.faults["read"] = [SourceUnavailable("gone")] * 3
    outage = OutageLog()
    assert run(source, store, over=lambda: "rewind" in source.steps, outage=outage) == 0
    source.steps.clear()
    assert run(source, store, over=lambda: "rewind" in source.steps, outage=outage) == 0
    assert caplog.text.count("The worker cannot store: gone. Snapshots wait in the stream") == 1, (
        "once, not each time slice"
    )
    assert run(source, store, outage=outage) == 1
    assert "The worker stores again" in caplog.text


def test_an_acknowledgement_that_failed_is_repeated_with_its_batch() -> None:
    source, store = ScriptedSource([entry(1)]), ScriptedStore()
    source.faults["acknowledge"] = [SourceUnavailable("answer lost")]
    assert run(source, store) == 1
    assert store.saved == [1, 1], "stored again, which the database makes a no-op"


def test_a_misconfiguration_is_not_retried_quickly() -> None:
    source, store = ScriptedSource([entry(1)]), ScriptedStore(StoreMisconfigured("run riskstream migrate up"))
    assert run(source, store) == 1
    assert "failed" not in source.steps


def test_a_bad_entry_becomes_a_dead_letter_and_stops_nothing() -> None:
    source, store = ScriptedSource([entry(1), StreamEntry("2-0", b"nonsense"), entry(3)]), ScriptedStore()
    assert run(source, store) == 3
    assert store.saved == [1, 3]


def test_no_batch_is_acknowledged_before_it_is_stored() -> None:
    source, store = ScriptedSource([entry(n) for n in range(1, 10)]), ScriptedStore()
    acknowledge = source.acknowledge

    def checked(batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        assert {row.snapshot.seq for batch in batches for row in batch.rows} <= set(store.saved)
        acknowledge(batches, outcomes, at)

    source.acknowledge = checked  # type: ignore[method-assign]
    assert run(source, store) == 9


def test_stop_ends_the_time_slice_after_the_batch_in_hand() -> None:
    stop = threading.Event()

    class Stopping(ScriptedStore):
        def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
            stop.set()
            return super().save_all(batches)

    source, store = ScriptedSource([entry(n) for n in range(1, 6)]), Stopping()
    assert drain(source, store, stop=stop, over=source.empty, policy=QUICK) == 2
    assert source.steps.count("acknowledge") == 1
    assert len(source.pending) == 3


def test_how_long_something_waits_for_its_commit_counts_all_tries_and_ends_with_it() -> None:
    clock = FakeClock()
    uncommitted = Uncommitted(clock)
    waited: list[float] = []

    class Failing(ScriptedStore):
        def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
            clock.now += 3.0
            waited.append(uncommitted.seconds())
            return super().save_all(batches)

    source = ScriptedSource([entry(1), entry(2), entry(3)])
    assert run(source, Failing(*[StoreUnavailable("gone")] * 4), uncommitted=uncommitted) == 3
    assert waited == [3.0, 6.0, 9.0, 12.0, 15.0, 3.0], "also when it was read again; then the next"
    assert uncommitted.seconds() == 0.0


def test_nothing_waits_for_its_commit_while_redis_does_not_answer() -> None:
    clock = FakeClock()
    uncommitted = Uncommitted(clock)
    uncommitted.begin()
    clock.now += 60.0
    source = ScriptedSource([entry(1)])
    source.faults["read"] = [SourceUnavailable("gone")]
    seen: list[float] = []

    class Looking(ScriptedStore):
        def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
            seen.append(uncommitted.seconds())
            return super().save_all(batches)

    assert run(source, Looking(), uncommitted=uncommitted) == 1
    assert seen == [0.0]


def test_a_time_slice_that_is_over_gives_the_batch_back_instead_of_trying_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may have waited for a lock: that the store cannot store is known after all tries alone."""
    over = threading.Event()

    class Lost(ScriptedStore):
        def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
            over.set()
            raise StoreUnavailable("gone")

    source, outage = ScriptedSource([entry(1)]), OutageLog()
    assert run(source, Lost(), over=over.is_set, outage=outage) == 0
    assert outage.why == ""
    assert [record.levelname for record in caplog.records] == ["WARNING"], "the try that failed"
    assert source.steps.count("failed") == 1
    assert len(source.pending) == 1
