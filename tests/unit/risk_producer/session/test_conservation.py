"""An exception of every kind, at every call that the flusher makes: nothing is lost, nothing is duplicated.

The calls are found by a profile function in the flusher's thread. One that a module of risk_producer makes
raises. Here those are the first ones from some places in the code, with each kind of exception; from each
place in the integration test of the same name, as a real Redis takes a fifth of the time. RISK_TEST_FAULTS=1:
each call that is made, in both.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import risk_producer
from risk_producer.session.options import Options
from risk_producer.session.session import ProducerSession
from risk_producer.spool.spool import Spool
from tests.support.factory import snapshot
from tests.support.producers import Bench, Producer
from tests.support.wait import wait_until

FOREIGN = type("ForeignError", (Exception,), {})
KINDS = [ValueError, MemoryError, KeyboardInterrupt, SystemExit, FOREIGN, RecursionError, OSError]
PACKAGE = str(Path(risk_producer.__file__).parent) + os.sep
EACH = bool(os.environ.get("RISK_TEST_FAULTS"))
COUNT = 12

Place = tuple[str, int]
"""A function of risk_producer, and the line in it that calls."""


class Faults:
    """Raises at the n-th call, or at the first one from a place; counts them, and notes from where."""

    def __init__(
        self, at: int | Place | None, kind: type[BaseException], thread: str = "risk-producer"
    ) -> None:
        """at: None: nowhere."""
        self.at, self.kind, self.calls, self.raised = at, kind, 0, False
        self.places: dict[Place, None] = {}
        self.thread = thread

    def each(self, step: int = 1) -> Sequence[int | Place]:
        """Where to raise, one at a time, as seen here. step: each so manieth place will do."""
        return range(1, self.calls + 1) if EACH else list(self.places)[len(self.places) % step :: step]

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if threading.current_thread().name != self.thread or event not in ("call", "c_call"):
            return
        caller = frame if event == "c_call" else frame.f_back
        if caller is None or PACKAGE not in caller.f_code.co_filename:
            return
        if caller.f_code.co_name in ("_run", "_step_safely"):  # what an exception comes out of
            return
        if event == "c_call" and argument.__name__ == "__exit__":  # of a lock or a file: not interrupted
            return
        self.calls += 1
        place = caller.f_code.co_qualname, caller.f_lineno
        self.places.setdefault(place)
        if self.at in (self.calls, place) and not self.raised:
            self.raised = True
            raise self.kind("injected")


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a flusher waits after a fault is not what is asked here."""
    monkeypatch.setattr("risk_producer.session.backoff._WAIT_S", 0.001)


@pytest.fixture(scope="module", autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """A fault in a finalizer that the collector happens to run is no fault of the call that was meant."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def run(bench: Bench, faults: Faults, **options: Any) -> Producer:
    threading.setprofile(faults)
    try:
        producer = bench.producer(**options)
        for number in range(COUNT):
            assert producer.save(snapshot(f"t{number % 2}", number))
        assert producer.flush(30)
        assert producer.save(snapshot("t0", COUNT))
        assert producer.flush(30)
    finally:
        threading.setprofile(None)
    return producer


def session_of(producer: Any) -> ProducerSession:
    session: ProducerSession = producer.inner._engine.session
    return session


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
def test_a_fault_at_any_call_of_the_flusher(flavour: str, spooled: bool, tmp_path: Path) -> None:
    with Bench(flavour, None) as bench:
        calls = Faults(None, ValueError)
        run(bench, calls, **({"spool_dir": tmp_path / "count"} if spooled else {}))
    assert calls.calls > 100
    assert len(calls.places) > 50
    raised = 0
    chosen = calls.each(step=10)
    assert len(chosen) >= len(KINDS)
    for number, at in enumerate(chosen):
        faults = Faults(at, KINDS[number % len(KINDS)])
        options: dict[str, Any] = {"spool_dir": tmp_path / str(number)} if spooled else {}
        with Bench(flavour, None) as bench:
            producer = run(bench, faults, **options)
            where = f"{faults.kind.__name__} at call {at}"
            stored = bench.stored()
            assert sorted(wire.daily_pnl for wire in stored) == list(range(COUNT + 1)), where
            for trader_id in ("t0", "t1"):
                mine = [wire for wire in stored if wire.trader_id == trader_id]
                assert [wire.seq for wire in mine] == list(range(1, len(mine) + 1)), where
            totals = session_of(producer).totals()
            assert totals.reconciled, where
            assert totals.confirmed == COUNT + 1, where
            assert producer.close(), where
        raised += faults.raised
    assert raised > len(chosen) // 2  # what is called where the flusher waits is not called each time
    sys.setprofile(None)


def end(folder: Path, faults: Faults) -> ProducerSession:
    """A session that ends with snapshots in its spool, and is interrupted; then it ends again."""
    session = ProducerSession(Options(), Spool(folder, fsync="never", max_bytes=1 << 20))
    for number in range(COUNT):
        assert session.accept(snapshot("t0", number))
    sys.setprofile(faults)
    try:
        with contextlib.suppress(faults.kind):
            session.end()
    finally:
        sys.setprofile(None)
    session.end()
    return session


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_a_fault_at_any_call_of_the_end_leaves_the_spooled_counted_as_spooled(
    kind: type[BaseException], tmp_path: Path
) -> None:
    here = threading.current_thread().name
    calls = Faults(None, kind, here)
    end(tmp_path / "count", calls)
    assert calls.calls > 20
    for at in range(1, calls.calls + 1):
        session = end(tmp_path / str(at), Faults(at, kind, here))
        totals = session.totals()
        assert totals.reconciled, at
        assert (totals.spooled, totals.unsent, totals.unknown) == (COUNT, 0, 0), at
        again = ProducerSession(Options(), Spool(tmp_path / str(at), fsync="never", max_bytes=1 << 20))
        assert again.depth == COUNT, at
        again.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_lasts_is_named_and_ends(flavour: str, kind: type[BaseException]) -> None:
    with Bench(flavour, None) as bench:
        producer = bench.producer()
        producer.push(snapshot("t0", 0), timeout=30)
        admit, failing = producer.stream.admit, threading.Event()
        failing.set()

        def fail(call: Any) -> Any:
            if failing.is_set():
                raise kind("foreign trouble")
            return admit(call)

        producer.stream.admit = fail
        assert producer.save(snapshot("t0", 1))
        assert not producer.flush(0.02)
        wait_until(lambda: producer.health().backend == "memory")
        health = producer.health()
        assert "foreign trouble" in (health.reason or "")
        failing.clear()
        assert producer.flush(30)
        assert [wire.daily_pnl for wire in bench.stored()] == [0, 1]
