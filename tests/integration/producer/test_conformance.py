"""One suite for every producer on every Redis: threaded and asyncio, fakeredis and Valkey."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import generate_latest

from risk_producer import (
    InvalidSnapshot,
    ProducerClosed,
    StateUnknown,
    StreamFull,
    StreamUnavailable,
)
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.transport.requests import Admission, Admit, Request
from tests.support.factory import snapshot
from tests.support.producers import Bench, Producer
from tests.support.redis import mark_restored
from tests.support.wait import wait_until

KEYS = Keys(0)


@pytest.fixture(
    params=["threaded-fakeredis", "asyncio-fakeredis", "threaded-valkey", "asyncio-valkey"],
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    flavour, server = request.param.split("-")
    url = request.getfixturevalue("redis_url") if server == "valkey" else None
    with Bench(flavour, url) as made:
        yield made


class Trouble:
    """Stands before a producer's stream: calls fail while `error` is set."""

    def __init__(self, producer: Producer) -> None:
        self.error: StreamUnavailable | None = None
        self.lose_answers = 0
        self.calls: list[Admit] = []
        stream = producer.stream
        self._ask, self._latest = stream.ask, stream.latest
        stream.ask, stream.latest = self.ask, self.latest

    def ask(self, requests: Sequence[Request], **options: Any) -> list[Any]:
        self.calls += [each for each in requests if isinstance(each, Admit)]
        if self.error is not None:
            return [self.error] * len(requests)
        return [self._lose(reply) for reply in self._ask(requests, **options)]

    def latest(self, *arguments: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self._latest(*arguments)

    def _lose(self, reply: Any) -> Any:
        if isinstance(reply, Admission) and self.lose_answers:
            self.lose_answers -= 1
            return StreamUnavailable("the answer was lost")
        return reply


def metric(producer: Producer, name: str, **labels: str) -> float | None:
    return producer.registry.get_sample_value(name, labels)


def seqs(bench: Bench, trader_id: str = "t1") -> list[int]:
    return [wire.seq for wire in bench.stored() if wire.trader_id == trader_id]


# In order, each once


def test_saved_snapshots_arrive_in_order_with_an_identity(bench: Bench) -> None:
    producer = bench.producer()
    for number in range(50):
        assert producer.save(snapshot("t1" if number % 2 else "t2", number))
    assert producer.flush(30)
    stored = bench.stored()
    assert [wire.daily_pnl for wire in stored] == list(range(50))
    assert seqs(bench, "t1") == seqs(bench, "t2") == list(range(1, 26))
    assert len({(wire.trader_id, wire.epoch) for wire in stored}) == 2
    assert bench.redis.hget(KEYS.counters, "accepted") == b"50"
    newest = next(wire for wire in stored if wire.daily_pnl == 49)
    assert bench.redis.hget(KEYS.admitted, f"{newest.epoch}:t1") == b"25"


def test_push_returns_when_redis_has_it(bench: Bench) -> None:
    sent = snapshot("t1", 3.25, trading_paused=True, reason="limit", trace_id="trace")
    bench.producer().push(sent)
    [wire] = bench.stored()
    assert wire.snapshot == sent
    assert (wire.seq, wire.merged) == (1, 0)


def test_more_than_a_buffer_goes_through(bench: Bench) -> None:
    producer = bench.producer(buffer_size=7)
    assert all(producer.save(snapshot("t1", number)) for number in range(200))
    assert producer.flush(30)
    assert [wire.daily_pnl for wire in bench.stored()] == list(range(200))
    assert seqs(bench) == list(range(1, 201))


def test_a_lost_answer_stores_each_snapshot_once(bench: Bench) -> None:
    producer = bench.producer()
    trouble = Trouble(producer)
    trouble.lose_answers = 3
    for number in range(20):
        assert producer.save(snapshot("t1", number))
    assert producer.flush(30)
    assert seqs(bench) == list(range(1, 21))
    first, second, *_ = trouble.calls
    assert first is second, "the same bytes again"
    assert bench.redis.hget(KEYS.counters, "accepted") == b"20"


def test_a_flushed_script_cache_is_no_trouble(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    producer = bench.producer()
    producer.push(snapshot())
    bench.redis.script_flush()
    producer.push(snapshot())
    assert seqs(bench) == [1, 2]
    assert not caplog.records


def test_a_trader_goes_to_its_own_partition(bench: Bench) -> None:
    producer = bench.producer(partitions=4)
    traders = [f"t{number}" for number in range(12)]
    assert {partition_of(trader, 4) for trader in traders} == {0, 1, 2, 3}
    for number in range(3):
        for trader in traders:
            assert producer.save(snapshot(trader, number))
    assert producer.flush(30)
    for partition in range(4):
        mine = [trader for trader in traders if partition_of(trader, 4) == partition]
        stored = bench.stored(partition)
        assert sorted({wire.trader_id for wire in stored}) == sorted(mine)
        for trader in mine:
            assert [wire.seq for wire in stored if wire.trader_id == trader] == [1, 2, 3]
    state = producer.load(traders[0])
    assert state is not None and state.snapshot.daily_pnl == 2


def test_a_full_partition_does_not_hold_up_the_others(bench: Bench) -> None:
    producer = bench.producer(partitions=2, stream_maxlen=4)  # two each
    one = next(f"t{n}" for n in range(99) if partition_of(f"t{n}", 2) == 0)
    other = next(f"t{n}" for n in range(99) if partition_of(f"t{n}", 2) == 1)
    for number in range(4):
        assert producer.save(snapshot(one, number))
    wait_until(lambda: producer.health().stream_full)
    producer.push(snapshot(other), timeout=30)
    assert len(bench.stored(0)) == 2


# The cap


def test_a_full_stream_rejects_and_uses_up_no_seq(bench: Bench) -> None:
    producer = bench.producer(stream_maxlen=10)
    for number in range(10):
        producer.push(snapshot("t1", number))
    with pytest.raises(StreamFull, match="10 snapshots"):
        producer.push(snapshot("t1", 99), timeout=0.2)
    assert len(bench.stored()) == 10
    assert producer.health().stream_full
    assert producer.health().rejected == 1
    assert metric(producer, "risk_producer_rejected_total") == 1
    state = producer.load("t1")
    assert state is not None and state.snapshot.daily_pnl == 9, "what was taken back is not remembered"
    bench.drain(4)
    for number in range(10, 14):
        producer.push(snapshot("t1", number), timeout=30)
    assert seqs(bench) == list(range(5, 15))
    assert not producer.health().stream_full


def test_save_answers_false_when_stream_and_buffer_are_full(bench: Bench) -> None:
    producer = bench.producer(stream_maxlen=3, buffer_size=5, save_timeout_s=0.2)
    accepted = [producer.save(snapshot("t1", number)) for number in range(3)]
    wait_until(lambda: producer.health().buffered == 0)
    accepted += [producer.save(snapshot("t1", number)) for number in range(3, 9)]
    assert accepted == [True] * 8 + [False]
    assert len(bench.stored()) == 3
    with pytest.raises(StreamFull, match="buffer stayed full"):
        producer.push(snapshot())
    bench.drain(3)
    wait_until(lambda: len(bench.stored()) == 3)
    bench.drain(3)
    assert producer.flush(30)
    assert [wire.daily_pnl for wire in bench.stored()] == [6, 7]
    assert seqs(bench) == [7, 8]
    assert producer.health().rejected == 2


def test_a_batch_is_admitted_as_far_as_there_is_room(bench: Bench) -> None:
    filler = bench.producer()
    for number in range(7):
        filler.push(snapshot("filler", number))
    producer = bench.producer(stream_maxlen=10)
    for number in range(3):
        assert producer.save(snapshot("t1", number))
        assert producer.save(snapshot("t2", number))
    wait_until(lambda: producer.health().stream_full)
    assert [(wire.trader_id, wire.daily_pnl) for wire in bench.stored()[7:]] == [
        ("t1", 0),
        ("t2", 0),
        ("t1", 1),
    ]
    bench.drain(10)
    assert producer.flush(30)
    assert [(wire.trader_id, wire.seq) for wire in bench.stored()] == [("t2", 2), ("t1", 3), ("t2", 3)]


def test_refuse_does_not_wait(bench: Bench) -> None:
    producer = bench.producer(stream_maxlen=1, buffer_size=2, on_full="refuse", save_timeout_s=3600)
    assert False in [producer.save(snapshot("t1", number)) for number in range(10)]


def test_conflate_keeps_the_newest_and_explains_the_gap(bench: Bench) -> None:
    producer = bench.producer(stream_maxlen=1, buffer_size=4, on_full="conflate")
    producer.push(snapshot("t1", 0))
    for number in range(1, 50):
        paused = number == 30
        assert producer.save(snapshot("t1", number, trading_paused=paused, reason="limit" if paused else ""))
    stored = []
    while not producer.flush(0.1):
        stored += bench.drain(1)
    stored += bench.stored()
    health = producer.health()
    assert health.conflated == 50 - len(stored) > 0
    assert health.accepted == 50
    assert stored[-1].daily_pnl == 49
    assert next(wire.seq for wire in stored if wire.daily_pnl in (30, 31)) == 31, "the pause is kept"
    explained = [seq for wire in stored for seq in range(wire.seq - wire.merged, wire.seq + 1)]
    assert explained == list(range(1, 51)), "every seq once: stored, or merged into a stored one"
    assert bench.redis.hget(KEYS.counters, "accepted") == b"50"
    assert bench.redis.hget(KEYS.counters, "conflated") == str(health.conflated).encode()
    assert metric(producer, "risk_producer_conflated_total") == health.conflated


# Two incarnations


def test_a_new_incarnation_has_a_greater_epoch_and_fences_the_old_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    zombie = bench.producer()
    zombie.push(snapshot("t1", 1))
    successor = bench.producer()
    successor.push(snapshot("t1", 2, trading_paused=True))
    assert zombie.health().fenced == ()
    zombie.push(snapshot("t1", 3))
    zombie.push(snapshot("t1", 4))
    epochs = [wire.epoch for wire in bench.stored()]
    assert epochs[0] < epochs[1]
    assert epochs[2:] == [epochs[0]] * 2, "its history goes on"
    assert bench.redis.hget(KEYS.epochs, "t1") == str(epochs[1]).encode()
    assert zombie.health().fenced == ("t1",)
    assert successor.health().fenced == ()
    assert metric(zombie, "risk_producer_fenced") == 1
    [line] = [record for record in caplog.records if "taken over" in record.getMessage()]
    assert line.levelno == logging.CRITICAL
    for producer in (zombie, successor, bench.producer()):
        state = producer.load("t1")
        assert state is not None and state.snapshot.daily_pnl == 2 and state.snapshot.trading_paused


def test_an_epoch_never_goes_back(bench: Bench) -> None:
    bench.redis.hset(KEYS.epochs, "t1", 9_000_000_000_000)
    bench.producer().push(snapshot())
    assert bench.stored()[-1].epoch == 9_000_000_000_001
    bench.redis.flushdb()
    first = bench.producer()
    first.push(snapshot())
    assert 1_600_000_000_000 < bench.stored()[-1].epoch < 9_000_000_000_000


def test_redis_that_lost_its_data_learns_the_epoch_again(bench: Bench) -> None:
    producer = bench.producer()
    producer.push(snapshot("t1", 1))
    epoch = bench.redis.hget(KEYS.epochs, "t1")
    bench.redis.flushdb()
    producer.push(snapshot("t1", 2))
    assert bench.redis.hget(KEYS.epochs, "t1") == epoch
    assert seqs(bench) == [2]


# Loading


def test_load_says_where_the_state_came_from(bench: Bench) -> None:
    producer = bench.producer()
    with pytest.raises(StateUnknown, match="no worker has restored"):
        producer.load("t1")
    mark_restored(bench.redis)
    assert producer.load("t1") is None
    paused = snapshot("t1", 1, trading_paused=True, reason="limit")
    assert producer.save(paused)
    state = producer.load("t1")
    assert state is not None and state.source == "memory" and state.snapshot == paused
    assert producer.flush(30)
    state = bench.producer().load("t1")
    assert state is not None and state.source == "redis" and state.snapshot == paused
    assert 0 <= state.age_s < 60
    assert state.unanswered == ()


def test_load_from_memory_while_redis_is_away_and_state_unknown_without(bench: Bench) -> None:
    producer = bench.producer()
    trouble = Trouble(producer)
    trouble.error = StreamUnavailable("away")
    with pytest.raises(StateUnknown, match=r"'t1'.*redis: away"):
        producer.load("t1")
    assert producer.save(snapshot("t1", 5))
    state = producer.load("t1")
    assert state is not None and state.source == "memory" and state.unanswered == ("redis",)


def test_a_latest_state_that_cannot_be_read_is_not_none(bench: Bench) -> None:
    bench.redis.hset(KEYS.latest, "t1", b'{"v":2}')
    with pytest.raises(StateUnknown, match="wire version 2"):
        bench.producer().load("t1")


def test_a_latest_state_of_another_trader_is_not_given_to_this_one(bench: Bench) -> None:
    bench.producer().push(snapshot("other", 1, trading_paused=True))
    payload = bench.redis.hget(KEYS.latest, "other")
    mark_restored(bench.redis)
    bench.redis.hset(KEYS.latest, "two words", payload)
    with pytest.raises(StateUnknown, match=r"holds a snapshot of 'other'.*riskstream repair 'two words'"):
        bench.producer().load("two words")
    mine = bench.producer()
    mine.push(snapshot("two words", 5))
    bench.redis.hset(KEYS.latest, "two words", payload)
    state = mine.load("two words")
    assert state is not None
    assert (state.source, state.snapshot.daily_pnl, state.unanswered) == ("memory", 5, ("redis",))


# Redis away


def test_redis_away_and_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    producer = bench.producer()
    trouble = Trouble(producer)
    producer.push(snapshot("t1", 0))
    assert producer.health().backend == "postgres"
    trouble.error = StreamUnavailable("away")
    for number in range(1, 11):
        assert producer.save(snapshot("t1", number))
    wait_until(lambda: producer.health().backend == "memory")
    for number in range(11, 21):
        assert producer.save(snapshot("t1", number))
    assert producer.health().reason == "away"
    assert metric(producer, "risk_producer_backend", backend="memory") == 1
    with pytest.raises(StreamUnavailable, match=r"away.*is sent later"):
        producer.push(snapshot("t1", 21), timeout=0.2)
    labels = {"trader_id": "t1", "backend": "memory"}
    assert metric(producer, "risk_persistence_attempts_total", **labels) == 21
    assert not metric(producer, "risk_persistence_failures_total", **labels)
    assert metric(producer, "risk_persist_latency_ms", **labels) is not None
    trouble.error = None
    assert producer.flush(30)
    assert [wire.daily_pnl for wire in bench.stored()] == list(range(22))
    assert seqs(bench) == list(range(1, 23))
    assert producer.health().backend == "postgres"
    assert producer.health().reason is None
    assert metric(producer, "risk_producer_outages_total") == 1
    began, ended = [record for record in caplog.records if record.name == "riskstream.producer"]
    assert (began.levelno, ended.levelno) == (logging.CRITICAL, logging.WARNING)


def test_an_outage_longer_than_the_buffer_rejects_and_counts(bench: Bench) -> None:
    producer = bench.producer(buffer_size=3, save_timeout_s=0)
    trouble = Trouble(producer)
    trouble.error = StreamUnavailable("away")
    assert producer.save(snapshot("t1", 0))
    wait_until(lambda: producer.health().backend == "memory")
    assert [producer.save(snapshot("t1", number)) for number in range(1, 5)] == [True, True, False, False]
    labels = {"trader_id": "t1", "backend": "memory"}
    assert metric(producer, "risk_persistence_attempts_total", **labels) == 5
    assert metric(producer, "risk_persistence_failures_total", **labels) == 2
    trouble.error = None
    assert producer.flush(30)
    assert producer.save(snapshot("t1", 9))
    assert producer.flush(30)
    assert [(wire.daily_pnl, wire.seq) for wire in bench.stored()] == [(0, 1), (1, 2), (2, 3), (9, 4)]


# Life cycle


def test_close_flushes_and_may_be_called_again(bench: Bench) -> None:
    producer = bench.producer()
    for number in range(30):
        assert producer.save(snapshot("t1", number))
    assert producer.close()
    assert producer.close()
    assert len(bench.stored()) == 30
    assert producer.save(snapshot()) is False
    with pytest.raises(ProducerClosed):
        producer.push(snapshot())
    health = producer.health()
    assert health.closed and health.rejected == 2
    assert metric(producer, "risk_producer_accepted_total") == 30


def test_close_has_a_bound_and_says_what_it_could_not_send(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    producer = bench.producer()
    Trouble(producer).error = StreamUnavailable("away")
    for number in range(5):
        assert producer.save(snapshot("t1", number))
    assert producer.close(0.3) is False
    assert producer.close() is False
    assert "was closed with 5 snapshots" in caplog.text
    assert metric(producer, "risk_producer_unsent_total") == 5
    assert metric(producer, "risk_producer_buffered") == 0


def test_a_producer_that_was_never_used_closes_silently(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.producer().close()
    assert bench.producer().flush(0)
    assert not caplog.records


def test_what_is_no_snapshot_is_the_callers_mistake(bench: Bench) -> None:
    producer = bench.producer()
    not_a_snapshot: Any = {"trader_id": "t1"}
    with pytest.raises(InvalidSnapshot, match="RiskSnapshot is expected"):
        producer.save(not_a_snapshot)
    with pytest.raises(InvalidSnapshot, match="RiskSnapshot is expected"):
        producer.push(not_a_snapshot)


def test_the_metrics_can_be_scraped(bench: Bench) -> None:
    producer = bench.producer()
    producer.push(snapshot())
    text = generate_latest(producer.registry).decode()
    assert "risk_producer_accepted_total 1.0" in text
    assert 'risk_producer_backend{backend="postgres"} 1.0' in text
