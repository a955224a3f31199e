"""A part of Redis is away: the traders of the other partitions see nothing of it, the log says it once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import fakeredis
import pytest
import redis

from risk_producer import StreamUnavailable
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.session.options import Options
from risk_producer.session.session import ProducerSession
from risk_producer.transport.requests import TraderStream
from tests.support.factory import snapshot
from tests.support.producers import Bench, Producer
from tests.support.wait import wait_until

PARTITIONS = 4
SICK = 2


@pytest.fixture(params=["threaded", "asyncio"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(request.param, None) as made:
        yield made


def trader_of(partition: int) -> str:
    return next(name for name in map("t{}".format, count()) if partition_of(name, PARTITIONS) == partition)


def save_everywhere(producer: Producer, number: int) -> None:
    for partition in range(PARTITIONS):
        assert producer.save(snapshot(trader_of(partition), number))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "riskstream.producer"]


def damage(bench: Bench) -> None:
    bench.redis.rename(Keys(SICK).snapshots, "aside")
    bench.redis.set(Keys(SICK).snapshots, "x")


def mend(bench: Bench) -> None:
    bench.redis.rename("aside", Keys(SICK).snapshots)


def stored(bench: Bench, partition: int) -> list[float]:
    return [wire.daily_pnl for wire in bench.stored(partition)]


def gauge(producer: Producer, name: str, **labels: str) -> Any:
    return producer.registry.get_sample_value(name, labels)


def test_the_others_go_on_and_the_log_says_it_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    producer = bench.producer(partitions=PARTITIONS, push_through=False)
    save_everywhere(producer, 0)
    assert producer.flush(30)
    damage(bench)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 21):
            save_everywhere(producer, number)
            wait_until(lambda n=number: stored(bench, 0)[-1] == n, what="partition 0")  # type: ignore[misc]
            wait_until(lambda n=number: stored(bench, 3)[-1] == n, what="partition 3")  # type: ignore[misc]
        wait_until(lambda: producer.health().away == (SICK,), what="the producer to have noticed")
        health = producer.health()
        assert health.backend == "memory"
        assert health.reason is not None
        assert health.reason.startswith(f"partition {SICK} of {PARTITIONS}: ")
        assert "WRONGTYPE" in health.reason
        wait_until(lambda: producer.health().buffered == 20, what="the answers of the others")
        assert gauge(producer, "risk_producer_partitions_away") == 1
        for partition in range(PARTITIONS):
            attempts = gauge(
                producer,
                "risk_persistence_attempts_total",
                trader_id=trader_of(partition),
                backend="memory",
            )
            assert attempts == (20 if partition == SICK else None)
        with pytest.raises(StreamUnavailable, match="WRONGTYPE"):
            producer.push(snapshot(trader_of(SICK), 21), timeout=0.05)
        producer.push(snapshot(trader_of(1), 21), timeout=30)
        mend(bench)
        assert producer.flush(30)
    assert stored(bench, SICK) == list(range(22))
    assert producer.health().away == ()
    assert producer.health().backend == "postgres"
    first, last = lines(caplog)
    assert first.startswith(
        f"The producer cannot use Redis for partition {SICK} of {PARTITIONS}, its snapshots stay in memory"
    )
    assert last.startswith("The producer can use Redis again after")


def test_what_is_on_the_server_that_does_not_answer_is_away_with_it() -> None:
    """To find out for each of them would cost a time-out each, in which the others wait."""
    session = ProducerSession(Options(partitions=PARTITIONS))
    error = StreamUnavailable("away")
    assert session.accept(snapshot(trader_of(0)))
    [asked] = session.next_requests(1.0)
    assert asked.keys.partition == 0
    for partition in (1, 3):  # meanwhile
        assert session.accept(snapshot(trader_of(partition)))
    session.on_replies([error], 1.0, {1: error, 2: error})  # 2 has nothing to send
    [request] = session.next_requests(1.0)
    assert request.keys.partition == 3
    assert session.health().away == (0, 1)


@pytest.mark.parametrize(
    ("cause", "away"),
    [
        (redis.ConnectionError(), {2}),
        (redis.TimeoutError(), {2}),
        (redis.ResponseError("WRONGTYPE"), set()),
        (None, set()),
    ],
)
def test_an_answer_concerns_its_own_partition_alone(cause: Exception | None, away: set[int]) -> None:
    with fakeredis.FakeRedis() as client:
        error = StreamUnavailable("away")
        error.__cause__ = cause
        found = TraderStream(client).unreachable([(Keys(1), error)], [Keys(1), Keys(2)])
        assert found == dict.fromkeys(away, error)


def test_save_still_pushes_through_for_the_others(bench: Bench) -> None:
    producer = bench.producer(partitions=PARTITIONS, push_through=True)
    save_everywhere(producer, 0)
    assert producer.flush(30)
    damage(bench)
    assert producer.save(snapshot(trader_of(SICK), 1))
    wait_until(lambda: producer.health().away == (SICK,), what="the producer to have noticed")
    producer.push(snapshot(trader_of(0), 1), timeout=30)  # what was slow before has been answered
    assert producer.save(snapshot(trader_of(0), 2))
    mend(bench)
    assert producer.flush(30)


def test_a_producer_that_is_closed_meanwhile_counts_what_is_left(bench: Bench) -> None:
    producer = bench.producer(partitions=PARTITIONS, push_through=False)
    save_everywhere(producer, 0)
    assert producer.flush(30)
    damage(bench)
    save_everywhere(producer, 1)
    assert not producer.close(0.5)
    health = producer.health()
    assert health.unsent + health.unknown == 1
    assert all(stored(bench, each) == [0, 1] for each in range(PARTITIONS) if each != SICK)
