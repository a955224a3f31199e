"""A transaction is committed while the next takes its rows, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import pytest

from risk_worker.drain.batch import Batch, Outcome
from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.overlap import Overlap
from risk_worker.drain.uncommitted import Uncommitted
from tests.support.clock import FakeClock
from tests.support.factory import START
from tests.support.wait import wait_until

PATIENCE_S = 30


def batch(number: int) -> list[Batch]:
    return [Batch(str(number))]


class Halves:
    """A store of which each half can fail, or wait; it holds two transactions."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.before: Callable[[str], None] = lambda event: None
        self.open: set[str] = set()

    def _event(self, event: str) -> None:
        self.before(event)
        if event in self.faults:
            self.events.append(f"{event} fails")
            raise self.faults.pop(event)
        self.events.append(event)

    def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
        assert not self.open, "a transaction may hold a key that this one needs"
        self._event(f"save {batches[0].stream}")
        return [Outcome((), 0) for _ in batches]

    def begin(self, batches: Sequence[Batch]) -> Half | None:
        name = batches[0].stream
        if len(self.open) == 2:
            return None
        self._event(f"begin {name}")
        self.open.add(name)
        return Half(self, name)

    def cut(self) -> None:
        self.events.append("cut")


class Half:
    def __init__(self, store: Halves, name: str) -> None:
        self._store, self._name = store, name

    def commit(self) -> list[Outcome] | None:
        try:
            self._store._event(f"commit {self._name}")
        finally:
            self._store.open.discard(self._name)
        return [Outcome((), 0)]

    def abandon(self) -> None:
        self._store.events.append(f"abandon {self._name}")
        self._store.open.discard(self._name)


class Trial:
    def __init__(self) -> None:
        self.database = Halves()
        self.committed: list[int] = []
        self.at: list[datetime] = []
        self.now = START
        self.uncommitted = Uncommitted()
        self.failures: list[str] = []
        self.clock = FakeClock()
        self.overlap = self._overlap()

    def _overlap(self) -> Overlap:
        return Overlap(
            self.database,
            self._save,
            self._fail,
            self._report,
            self.uncommitted,
            clock=self.clock,
            now=lambda: self.now,
        )

    def _fail(self, batches: Sequence[Batch], error: StoreUnavailable) -> None:
        self.failures.append(f"{batches[0].stream}: {error}")

    def _save(self, batches: Sequence[Batch]) -> list[Outcome]:
        return self.database.save_all(batches)

    def _report(self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        self.committed += [int(each.stream) for each in batches]
        self.at.append(at)

    def store(self, *numbers: int) -> None:
        """All of them as a backlog."""
        for number in numbers:
            self.overlap.store(batch(number), more=number != numbers[-1])


@pytest.fixture
def trial() -> Trial:
    return Trial()


def test_without_a_backlog_nothing_is_done_in_halves(trial: Trial) -> None:
    for number in (1, 2):
        trial.overlap.store(batch(number), more=False)
    assert trial.database.events == ["save 1", "save 2"]
    assert trial.committed == [1, 2]


def test_in_a_backlog_the_next_takes_its_rows_while_one_is_committed(trial: Trial) -> None:
    taken = threading.Event()

    def before(event: str) -> None:
        if event == "commit 1":
            assert taken.wait(PATIENCE_S), "the COMMIT would otherwise wait for ever"
        if event == "begin 2":
            taken.set()

    trial.database.before = before
    trial.store(1, 2, 3)
    assert trial.committed == [1, 2, 3]
    assert not trial.overlap.is_committing
    assert [event for event in trial.database.events if event.startswith("commit")] == [
        "commit 1",
        "commit 2",
        "commit 3",
    ]


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreMisconfigured("no right")])
def test_after_a_commit_that_failed_both_are_stored_one_after_the_other(
    trial: Trial, error: Exception
) -> None:
    taken = threading.Event()

    def before(event: str) -> None:
        if event == "commit 1":
            assert taken.wait(PATIENCE_S)
        if event == "commit 2":
            pytest.fail("2 is committed before 1")

    trial.database.before = before
    trial.database.faults["commit 1"] = error
    begin = trial.database.begin

    def begun(batches: Sequence[Batch]) -> Half | None:
        found = begin(batches)
        if batches[0].stream == "2":
            taken.set()
        return found

    trial.database.begin = begun  # type: ignore[method-assign]
    trial.store(1, 2)
    assert trial.committed == [1, 2]
    assert trial.database.events == [
        "begin 1",
        "begin 2",
        "commit 1 fails",
        "abandon 2",
        "save 1",
        "save 2",
    ]


def test_rows_that_are_not_taken_are_stored_after_the_commit_before(trial: Trial) -> None:
    trial.database.faults["begin 2"] = StoreUnavailable("a lock")
    trial.store(1, 2, 3)
    assert trial.committed == [1, 2, 3]
    assert trial.database.events.index("commit 1") < trial.database.events.index("save 2")
    assert trial.failures == ["2: a lock"]
    assert "begin 3" not in trial.database.events, "a connection that fails is let rest"
    trial.clock.now += 60.0
    trial.store(4, 5)
    assert "begin 4" in trial.database.events


def test_rows_that_the_second_half_leaves_to_all_at_once_are_no_failure(trial: Trial) -> None:
    def commit(half: Half) -> list[Outcome] | None:
        trial.database.open.discard(half._name)
        return None

    begin = trial.database.begin

    def begun(batches: Sequence[Batch]) -> Half | None:
        found = begin(batches)
        if found is not None and batches[0].stream == "1":
            found.commit = partial(commit, found)  # type: ignore[method-assign]
        return found

    trial.database.begin = begun  # type: ignore[method-assign]
    trial.store(1, 2)
    assert trial.committed == [1, 2]
    assert trial.failures == []


def test_what_cannot_be_stored_is_not_reported_and_nothing_stays_open(trial: Trial) -> None:
    trial.database.faults |= {"commit 1": StoreUnavailable("gone"), "save 1": StoreUnavailable("gone")}
    with pytest.raises(StoreUnavailable):
        trial.store(1, 2)
    trial.overlap.forget()
    assert trial.committed == []
    assert trial.database.open == set()
    assert not trial.overlap.is_committing


def test_an_acknowledgement_that_fails_leaves_nothing_open(trial: Trial) -> None:
    def fail(batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime) -> None:
        raise SourceUnavailable("gone")

    trial._report = fail  # type: ignore[method-assign]
    overlap = trial._overlap()
    overlap.store(batch(1), more=True)
    with pytest.raises(SourceUnavailable):
        overlap.store(batch(2), more=True)
    overlap.forget()
    assert trial.database.open == set()
    assert "commit 2" not in trial.database.events


def test_a_commit_in_hand_is_waited_for_however_it_ends(trial: Trial) -> None:
    trial.overlap.store(batch(1), more=True)
    trial.overlap.finish()
    assert trial.committed == [1]
    trial.database.faults["commit 2"] = StoreUnavailable("gone")
    trial.overlap.store(batch(2), more=True)
    trial.overlap.forget()
    assert trial.committed == [1], "it is read again"


def test_leaving_in_the_middle_ends_a_commit_that_waits_for_ever(trial: Trial) -> None:
    cut = threading.Event()

    def before(event: str) -> None:
        if event == "commit 1":
            assert cut.wait(PATIENCE_S)
            raise StoreUnavailable("cut")

    trial.database.before = before
    trial.database.cut = cut.set  # type: ignore[method-assign]

    def leave() -> None:
        with trial.overlap:
            trial.overlap.store(batch(1), more=True)
            raise SystemExit

    with pytest.raises(SystemExit):
        leave()
    assert trial.committed == []


def test_what_is_in_hand_is_counted_from_its_own_beginning() -> None:
    clock = FakeClock()
    trial = Trial()
    trial.uncommitted = Uncommitted(clock)
    overlap = trial._overlap()
    goes_on = threading.Event()

    def before(event: str) -> None:
        if event.startswith("commit"):
            assert goes_on.wait(PATIENCE_S)

    trial.database.before = before
    overlap.store(batch(1), more=True)
    clock.now += 7.0
    assert trial.uncommitted.seconds() == 7.0
    goes_on.set()
    wait_until(lambda: trial.uncommitted.seconds() == 0.0, PATIENCE_S, "the end of the COMMIT")
    goes_on.clear()
    overlap.store(batch(2), more=True)
    clock.now += 2.0
    assert trial.uncommitted.seconds() == 2.0
    goes_on.set()
    overlap.finish()
    assert trial.uncommitted.seconds() == 0.0


def test_a_commit_is_dated_when_it_came_not_when_it_is_noticed() -> None:
    trial, clock = Trial(), FakeClock()
    trial.uncommitted = Uncommitted(clock)
    overlap = trial._overlap()
    overlap.store(batch(1), more=True)
    clock.now += 1.0
    wait_until(lambda: trial.uncommitted.seconds() == 0.0, PATIENCE_S, "the COMMIT")
    trial.now = START + timedelta(seconds=5)
    overlap.store(batch(2), more=False)
    assert trial.at == [START, START + timedelta(seconds=5)]
