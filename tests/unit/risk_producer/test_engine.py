"""For how long save() waits for Redis in a process that may be ended at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from risk_producer import engine as engines
from risk_producer.engine import PUSH_THROUGH_FIRST_S, PUSH_THROUGH_S, Engine
from risk_producer.errors import StreamUnavailable
from risk_producer.session.options import Options
from risk_producer.session.session import ProducerSession
from risk_producer.transport.redis import Transport
from risk_producer.transport.requests import Admission
from tests.support.factory import snapshot
from tests.support.producers import Bench

NOW = 1_000.0


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Without a thread: what Redis answers is written by hand."""
    monkeypatch.setattr(engines, "monotonic", lambda: NOW)
    made = Engine(ProducerSession(Options()), Transport(None), push_through=True)
    made.session.on_work = lambda _start: None
    return made


def take(session: ProducerSession, reply: object | None = None) -> None:
    """Redis takes a snapshot."""
    assert session.accept(snapshot("t")) is not None
    session.on_replies([[1]], 1.0) if session.next_requests(1.0) else None
    session.next_requests(1.0)
    session.on_replies([reply or Admission(1, [])], 1.0)  # type: ignore[list-item]


def test_the_first_snapshot_of_a_process_is_waited_for_longer(engine: Engine) -> None:
    """A thread starts and connects, and an epoch is asked for, before it goes."""
    assert engine.push_through_until("t") == NOW + PUSH_THROUGH_FIRST_S
    take(engine.session)
    assert engine.push_through_until("t") == NOW + PUSH_THROUGH_S


def test_what_was_waited_for_in_vain_is_not_waited_for_again_before_redis_takes_something(
    engine: Engine,
) -> None:
    engine.was_slow()
    assert engine.push_through_until("t") is None
    take(engine.session)
    assert engine.push_through_until("t") == NOW + PUSH_THROUGH_S


def test_nothing_is_waited_for_while_redis_is_away(engine: Engine) -> None:
    take(engine.session, StreamUnavailable("refused"))
    assert engine.push_through_until("t") is None


@pytest.fixture(params=["threaded", "asyncio"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(request.param, None) as made:
        yield made


def test_save_returns_when_redis_has_the_snapshot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PUSH_THROUGH_FIRST_S", 30.0)
    monkeypatch.setattr(engines, "PUSH_THROUGH_S", 30.0)
    producer = bench.producer(push_through=True)
    for number in range(5):
        assert producer.save(snapshot("t", number))
        assert len(bench.stored()) == number + 1


def test_save_returns_after_its_time_where_redis_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PUSH_THROUGH_FIRST_S", 0.0)
    producer = bench.producer(push_through=True)
    answers, ask = threading.Event(), producer.stream.ask

    def asked(*words: Any, **options: Any) -> Any:
        answers.wait(30)
        return ask(*words, **options)

    producer.stream.ask = asked
    assert producer.save(snapshot("t"))
    assert bench.stored() == [], "save() has not waited for it"
    answers.set()
    assert producer.flush(30)
