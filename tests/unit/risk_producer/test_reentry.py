"""Foreign code that calls into the producer from anywhere: log handlers, finalizers, signal handlers."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
from prometheus_client import CollectorRegistry

from risk_producer import RiskProducer, StreamFull, StreamUnavailable, close_on_sigterm
from risk_producer.contract.keys import Keys
from tests.support.factory import snapshot
from tests.support.redis import stream_of
from tests.support.wait import wait_until


@pytest.fixture
def producer(client: fakeredis.FakeRedis) -> Iterator[RiskProducer]:
    with RiskProducer(client=client, registry=CollectorRegistry(), save_timeout_s=0.2) as made:
        yield made


def fails(_requests: Any, **_options: Any) -> Any:
    raise StreamUnavailable("away")


class Calling(logging.Handler):
    """Calls everything, in the middle of a log line."""

    def __init__(self, producer: RiskProducer) -> None:
        super().__init__()
        self.producer, self.called = producer, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.called += 1
        if self.called > 3:
            return
        self.producer.health()
        self.producer.save(snapshot("log", self.called))
        with contextlib.suppress(StreamUnavailable):
            self.producer.push(snapshot("log", self.called), timeout=0.05)
        self.producer.flush(0.05)


def test_a_log_handler_may_call_everything(producer: RiskProducer, client: fakeredis.FakeRedis) -> None:
    logger = logging.getLogger("riskstream.producer")
    handler = Calling(producer)
    logger.addHandler(handler)
    try:
        stream = producer._engine.flusher.transport.connected()
        ask = stream.ask
        stream.ask = fails  # type: ignore[method-assign,assignment,unused-ignore]
        assert producer.save(snapshot("t1", 1))
        wait_until(lambda: handler.called)
        stream.ask = ask  # type: ignore[method-assign,assignment,unused-ignore]
        assert producer.flush(30)
    finally:
        logger.removeHandler(handler)
    assert len([wire for wire in stream_of(client) if wire.trader_id == "log"]) >= 2
    assert producer._engine.session.totals().reconciled


def test_a_slow_log_handler_holds_up_no_save(producer: RiskProducer) -> None:
    let_go = threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            let_go.wait(60)

    logger = logging.getLogger("riskstream.producer")
    handler = Slow()
    logger.addHandler(handler)
    try:
        producer._engine.flusher.transport.connected().ask = fails  # type: ignore[method-assign,assignment,unused-ignore]
        producer.save(snapshot())
        wait_until(lambda: producer.health().backend == "memory")
        began = time.monotonic()
        assert producer.save(snapshot())
        assert time.monotonic() - began < 10
    finally:
        let_go.set()
        logger.removeHandler(handler)
        producer.close(0)


def test_finalizers_that_save_lose_nothing(client: fakeredis.FakeRedis) -> None:
    producer = RiskProducer(client=client, registry=CollectorRegistry(), buffer_size=10_000)
    saved: list[bool] = []

    class Saving:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            saved.append(producer.save(snapshot("gc", len(saved))))
            producer.health()

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        accepted = 0
        for number in range(300):
            Saving()
            accepted += producer.save(snapshot("t1", number))
        # collect() does nothing while the flusher's thread is in the middle of a collection of its own.
        wait_until(lambda: (gc.collect(), len(saved) == 300)[1], what="all finalizers have run")
    finally:
        gc.set_threshold(*threshold)
    assert producer.flush(30)
    assert len(stream_of(client)) == accepted + sum(saved)
    assert accepted == sum(saved) == 300
    assert producer.close()


def test_flush_waits_for_what_another_thread_is_about_to_put_into_the_buffer(
    producer: RiskProducer, client: fakeredis.FakeRedis
) -> None:
    session = producer._engine.session
    accepted = threading.Event()

    def save_from_within() -> None:
        with session.section.lock:  # as a finalizer that the garbage collector runs there
            assert producer.save(snapshot("t1", 1))
        accepted.set()

    thread = threading.Thread(target=save_from_within)
    thread.start()
    assert accepted.wait(10)
    assert producer.flush(30)
    assert len(stream_of(client)) == 1
    thread.join()


def test_a_signal_between_any_two_bytecodes(producer: RiskProducer, client: fakeredis.FakeRedis) -> None:
    accepted: list[bool] = []
    interrupted, within = 0, False

    def handle(*_: Any) -> None:
        nonlocal interrupted, within
        if within:
            return
        within = True
        interrupted += 1
        accepted.append(producer.save(snapshot("signal", interrupted)))
        producer.health()
        pushed = True
        try:
            producer.push(snapshot("signal", interrupted), timeout=0.01)
        except StreamFull:  # on a busy machine the buffer is full: then it is not accepted
            pushed = False
        except StreamUnavailable:
            pass
        accepted.append(pushed)
        within = False

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(1500):
            accepted.append(producer.save(snapshot("t1", number)))
            if number % 100 == 0:
                producer.flush(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 10
    assert producer.flush(30)
    assert len(stream_of(client)) == sum(accepted)
    assert producer._engine.session.totals().reconciled


def test_a_call_from_inside_is_done_when_the_outer_one_is_over(
    producer: RiskProducer, client: fakeredis.FakeRedis
) -> None:
    with producer._engine.session.section.lock:
        assert producer.save(snapshot("t1", 1))
        with pytest.raises(StreamUnavailable, match="is sent later"):
            producer.push(snapshot("t1", 2))
        assert producer.health().buffered == 2
        assert not producer.flush()
        assert not producer.close()
    assert producer.save(snapshot("t1", 3)) is False
    assert producer.close()
    assert [wire.daily_pnl for wire in stream_of(client)] == [1, 2]


def test_sigterm_closes_and_goes_on(producer: RiskProducer, client: fakeredis.FakeRedis) -> None:
    went_on: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: went_on.append(number))
    try:
        close_on_sigterm(producer)
        with producer._engine.session.section.lock:
            assert producer.save(snapshot("t1", 1))
            signal.raise_signal(signal.SIGTERM)
            assert not went_on
        producer.health()
        producer._engine.session.section.leave()
        assert went_on == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert producer.health().closed
    assert len(stream_of(client)) == 1


def test_no_lock_and_no_thread_before_the_first_use(client: fakeredis.FakeRedis) -> None:
    """gevent may replace what locks and threads are until then."""
    made = RiskProducer(client=client, registry=CollectorRegistry())
    assert not made._engine.session.section._made or not made._engine.flusher.runs()
    made.close()


def test_what_is_dropped_leaves_nothing(
    client: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    from risk_producer import process

    process._logged_missing_close.clear()
    registry = CollectorRegistry()
    before = set(process._open)
    for number in range(30):
        dropped = RiskProducer(client=client, registry=registry)
        assert dropped.save(snapshot(f"t{number}", number))
    collector = dropped._collector
    del dropped
    gc.collect()
    wait_until(lambda: not set(process._open) - before)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "risk-producer"])
    assert len(stream_of(client)) == 30
    assert registry.get_sample_value("risk_producer_accepted_total") == 30
    assert not collector._sources
    assert caplog.text.count("without close()") == 1


def test_one_traders_unreadable_epoch_holds_back_this_trader_alone(
    producer: RiskProducer, client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_producer.session.sender.HOLD_S", 0.05)
    client.hset(Keys(0).epochs, "bad", "abc")
    assert producer.save(snapshot("bad", 1))
    assert producer.save(snapshot("bad", 2))
    producer.push(snapshot("good", 3), timeout=30)
    assert "'bad'" in (producer.health().reason or "")
    assert [wire.trader_id for wire in stream_of(client)] == ["good"]
    client.hdel(Keys(0).epochs, "bad")
    assert producer.flush(30)
    assert [wire.daily_pnl for wire in stream_of(client)] == [3, 1, 2]
    assert producer.health().reason is None


def test_the_age_of_the_oldest_and_why_it_waits(
    client: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    with RiskProducer(client=client, registry=registry, stall_s=0.05) as made:
        made._engine.flusher.transport.connected().ask = fails  # type: ignore[method-assign,assignment,unused-ignore]
        assert made.save(snapshot())
        words = "The oldest snapshot has waited for"
        wait_until(lambda: words in (made.health().reason or "") and words in caplog.text)
        assert (made.health().reason or "").endswith("away")
        assert made.health().oldest_s >= 0.05
        assert (registry.get_sample_value("risk_producer_oldest_age_seconds") or 0) >= 0.05
        assert not made.close(0)


def test_what_cannot_be_encoded_is_left_out_alone(
    producer: RiskProducer, client: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    import msgspec

    bad = snapshot("bad", 1)
    msgspec.structs.force_setattr(bad, "reason", object())
    saves: list[Callable[[], bool]] = [
        lambda: producer.save(snapshot("t1", 1)),
        lambda: producer.save(bad),
        lambda: producer.save(snapshot("t1", 2)),
    ]
    assert all(save() for save in saves)
    assert not producer.flush(30)
    assert [wire.daily_pnl for wire in stream_of(client)] == [1, 2]
    assert producer.health().unsent == 1
    assert "'bad'" in caplog.text
    assert producer._engine.session.totals().reconciled
    assert not producer.close()
