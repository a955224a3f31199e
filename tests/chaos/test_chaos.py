"""A minute of chaos in every test run, and that the chaos itself can be believed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from risk_devkit.embedded import EmbeddedServerError
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import encode
from tests.chaos import run as chaos
from tests.chaos.engine import Begun, Undo, nothing
from tests.chaos.engines.single import Single
from tests.chaos.oracle import Answers, Notes, compare
from tests.chaos.schedule import KINDS, Fault, schedule
from tests.chaos.system import System
from tests.chaos.values import disguise, spoil
from tests.support.database import store_entries
from tests.support.factory import entry, snapshot
from tests.support.servers import server_folder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEED = 7


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_chaos() -> None:
    with server_folder() as folder:
        result = chaos.run(folder, Single(), seed=SEED, seconds=60, rate=150)
        print(chaos.report(result))
    assert result.wrong == []
    assert result.promised > 1_000
    assert sum(result.faults.values()) > 10
    assert result.totals["accepted"] >= result.promised


def test_the_same_seed_makes_the_same_schedule() -> None:
    assert schedule(SEED, 600) == schedule(SEED, 600)
    assert schedule(SEED, 600) != schedule(SEED + 1, 600)


def test_every_kind_of_fault_comes_up_and_ends_in_time() -> None:
    faults = [fault for seed in range(20) for fault in schedule(seed, 600)]
    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS}
    assert {fault.target for fault in faults} == {target for kind in KINDS for target in kind.targets}
    assert max(fault.at_s + fault.lasts_s for fault in faults) <= 600.01


def test_nothing_is_hit_twice_at_a_time() -> None:
    until: dict[str, float] = {}
    for fault in schedule(SEED, 3600):
        assert fault.at_s >= until.get(fault.target, 0)
        until[fault.target] = fault.at_s + fault.lasts_s


class Stub(System):
    """Where faults do what a test says."""

    def __init__(self, **begins: Callable[[], Undo]) -> None:
        """By the fault's target."""
        self.seen = Counter()
        self.wrong = []
        self.supervised = threading.Event()
        self._begins = begins

    def begin(self, fault: Fault) -> Begun:
        return Begun(self._begins[fault.target]())

    def supervise(self) -> None:
        self.supervised.set()

    def warnings(self) -> Counter[str]:
        return Counter()


def let_happen(system: System, *targets: str) -> list[str]:
    """Faults of these targets, all at once. What happened, in order."""
    faults = [Fault(0.0, "fault", target, 0.0, 0) for target in targets]
    return [each.fault.target for each in chaos.let_happen(system, faults, lambda _: None)]


def test_a_fault_that_waits_for_another_holds_up_neither_its_end_nor_the_supervision() -> None:
    """As a connection to a server that is frozen: it is thawed in time, and ended workers are started."""
    thawed = threading.Event()

    def waits() -> Undo:
        assert thawed.wait(30)
        system.supervised.clear()
        assert system.supervised.wait(30)
        return nothing

    system = Stub(waits=waits, frozen=lambda: thawed.set)
    assert sorted(let_happen(system, "waits", "frozen")) == ["frozen", "waits"]
    assert system.wrong == []


def test_nothing_is_hit_again_before_it_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "UNDO_AGAIN_S", 0.0)
    done: list[str] = []

    def begin() -> Undo:
        done.append("begin")
        return undo

    def undo() -> None:
        done.append("undo")
        if done.count("undo") == 1:
            for _ in range(3):  # the next one is due meanwhile
                system.supervised.clear()
                assert system.supervised.wait(30)
            raise EmbeddedServerError("another fault is in the way")

    system = Stub(same=begin)
    let_happen(system, "same", "same")
    assert done == ["begin", "undo", "undo", "begin", "undo"]
    assert system.seen == {"same: fault was undone by more than one try": 1}


def test_what_cannot_be_undone_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "UNDO_TIMEOUT_S", 0.0)

    def undo() -> None:
        raise EmbeddedServerError("it does not start")

    system = Stub(postgres=lambda: undo)
    let_happen(system, "postgres")
    [wrong] = system.wrong
    assert "postgres: fault could not be undone: " in wrong
    assert wrong.endswith("EmbeddedServerError: it does not start")


def test_an_error_of_the_chaos_itself_ends_it() -> None:
    def begin() -> Undo:
        raise LookupError("a mistake")

    with pytest.raises(LookupError):
        let_happen(Stub(target=begin), "target")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([], []),
        ([(1, 0), (2, 1)], []),
        ([(11, 9), (12, 11)], [(10, 11), (11, 12)]),
        ([(5, 4), (14, 13)], [(13, 14)]),  # nothing was there before: no trader sent anything
        ([(5, 4), (14, 3)], [(10, 14)]),  # it began before
        ([(11, 10), (25, 12)], [(10, 11), (12, 20)]),  # and lasts longer
        ([(11, 10), (14, 99)], [(10, 11), (11, 14)]),  # by a clock that is ahead
        ([(5, 4), (30, 25)], []),
    ],
)
def test_a_stall_is_of_what_waits_and_of_the_time_that_is_looked_at(
    stored: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    assert list(chaos.stalls([chaos.Store(*each) for each in stored], 10, 20)) == expected


def numbered(number: int, equity: float = 3.0, reason: str = "") -> RiskSnapshot:
    """As the notes below have it."""
    fields = {"current_equity": equity, "recorded_at": NOW, "trace_id": f"t{number}", "reason": reason}
    return snapshot("a", 1.0, **fields)


def store_each(url: str, *snapshots: tuple[int, RiskSnapshot]) -> None:
    store_entries(url, *(entry(seq, encode(each, 1, seq)) for seq, each in snapshots))


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """1: acknowledged. 2: refused. 3 and 5: in the buffer, 3 flushed. 4: killed before the answer."""
    notes = Notes(tmp_path / "notes")
    for number in range(1, 6):
        notes.write("try", f"t{number}", "a", NOW.isoformat(), 1.0, 3.0)
    notes.write("ok", "t1")
    notes.write("no", "t2")
    notes.write("saved", "t3")
    notes.write("begin", "x")
    notes.write("later", "t5")
    notes.write("end", "x")
    notes.write("begin", "y")
    made = Answers()
    made.read(tmp_path / "notes")
    return made


def test_notes_tell_promises_from_hopes(answers: Answers, tmp_path: Path) -> None:
    assert answers.promised == {"t1", "t3"}
    assert answers.refused == {"t2"}
    assert len(answers.tried) == 5
    Notes(tmp_path / "notes").write("spooled", "t4")
    answers.read(tmp_path / "notes")
    assert answers.promised == {"t1", "t3", "t4"}
    Notes(tmp_path / "notes").write("closed")
    answers.read(tmp_path / "notes")
    assert answers.promised == {"t1", "t3", "t4", "t5"}


def test_the_oracle_is_content_with_what_was_promised(answers: Answers, database_url: str) -> None:
    store_each(database_url, (1, numbered(1)), (2, numbered(3)), (3, numbered(4)))
    assert compare(answers, database_url) == []


def test_the_oracle_takes_a_dead_letter_for_an_answer(answers: Answers, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE risk_state_history ADD CHECK (trace_id <> 't3')")
    store_each(database_url, (1, numbered(1)), (2, numbered(3)))
    assert compare(answers, database_url) == []


def test_the_oracle_takes_poison_alone_for_a_dead_letter(answers: Answers, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE risk_state_history ADD CHECK (trace_id NOT IN ('t1', 't3'))")
    store_each(database_url, (1, numbered(1, reason="poison")), (2, numbered(3)))
    assert compare(answers, database_url, poison="poison") == ["t3 was acknowledged and is a dead letter"]


def test_the_oracle_finds_a_foreign_entry_that_moved_a_state(answers: Answers, database_url: str) -> None:
    store_each(database_url, (1, numbered(1)), (2, numbered(3)), (3, numbered(9)))
    assert compare(answers, database_url, foreign={"t9"}) == ["t9 is a state, and no producer sent it"]


def test_an_exception_in_a_trading_loop_is_wrong(answers: Answers, database_url: str, tmp_path: Path) -> None:
    store_each(database_url, (1, numbered(1)), (2, numbered(3)))
    Notes(tmp_path / "notes").write("error", "a", "TypeError()")
    answers.read(tmp_path / "notes")
    assert compare(answers, database_url) == ["error a TypeError()"]


def test_chosen_kinds_are_all_there_is() -> None:
    faults = schedule(SEED, 600, ["READONLY", "maxmemory"])
    assert {fault.kind for fault in faults} == {"READONLY", "maxmemory"}
    assert len(faults) > 50


def test_disguised_values_are_the_same_and_spoiled_ones_are_none() -> None:
    plain = {
        "trader_id": "a",
        "daily_pnl": 1.5,
        "drawdown_pct": 2.0,
        "current_equity": 3.0,
        "peak_equity": 4.0,
        "recorded_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "trace_id": "t",
        "reason": "",
    }
    chance = random.Random(SEED)
    for _ in range(100):
        assert disguise(plain, chance) == plain
        assert spoil(plain, chance) != plain


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ([(1, numbered(1))], "t3 was acknowledged and is lost"),
        ([(1, numbered(1)), (2, numbered(3)), (3, numbered(2))], "t2 was refused and is stored"),
        ([(1, numbered(1)), (2, numbered(3)), (3, numbered(9))], "t9 is stored, and no producer sent it"),
        ([(1, numbered(1)), (2, numbered(3)), (3, numbered(3))], "t3 is stored 2 times"),
        ([(1, numbered(1)), (2, numbered(3, 3.5))], "t3 is stored as"),
    ],
)
def test_the_oracle_finds_what_is_wrong(
    answers: Answers, database_url: str, stored: list[tuple[int, RiskSnapshot]], problem: str
) -> None:
    store_each(database_url, *stored)
    [found] = compare(answers, database_url)
    assert found.startswith(problem)
