"""Producers follow what Redis has about the number of partitions."""

from __future__ import annotations

import time
from typing import Any

import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from tests.support.factory import snapshot
from tests.support.producers import Bench
from tests.support.redis import stream_of
from tests.support.wait import wait_until

OLD = Partitioning(1, 4)
NEW = Partitioning(3, 16, (4,))
TRADER = next(name for name in map("t{}".format, range(99)) if OLD.places(name)[0] != NEW.places(name)[0])
FORMER, PLACE = OLD.places(TRADER)[0], NEW.places(TRADER)[0]


@pytest.fixture
def client(bench: Bench) -> Any:
    return bench.redis


@pytest.fixture
def followed(client: Any) -> None:
    """What is agreed on before a test: four partitions."""
    agree(client, OLD)


def agree(client: Any, found: Partitioning) -> None:
    """As the command and the workers do."""
    for partition in range(found.width):
        client.set(Keys(partition).partitioning, found.text)
        client.hset(Keys(partition).floors, "", run_id(client))


def run_id(client: Any) -> str:
    try:
        return str(client.info("server")["run_id"])
    except Exception:  # noqa: BLE001  fakeredis has no INFO of that kind
        return "any"


def numbers(client: Any, partition: int) -> list[float]:
    return [each.daily_pnl for each in stream_of(client, partition)]


def test_the_first_one_writes_its_wish_and_another_one_uses_it(
    bench: Bench, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench.producer(partitions=4).push(snapshot(TRADER, 1))
    assert client.get(Keys(0).partitioning) == b"1:4"
    other = bench.producer(partitions=7)
    assert other.health().partitions == 7
    other.push(snapshot(TRADER, 2))
    assert other.health().partitions == 4
    assert numbers(client, FORMER) == [1, 2]
    [line] = [record.message for record in caplog.records if "RISK_PARTITIONS" in record.message]
    assert line.startswith("RISK_PARTITIONS is 7 here, and the deployment has 4 partitions")


def test_load_writes_nothing(bench: Bench, client: Any) -> None:
    agree(client, NEW)
    client.delete(Keys(0).partitioning)
    assert bench.producer(partitions=3).load("new") is None
    assert client.get(Keys(0).partitioning) is None


def test_what_cannot_be_read_is_an_outage_until_it_is_written_anew(bench: Bench, client: Any) -> None:
    client.set(Keys(0).partitioning, "four")
    producer = bench.producer(partitions=4)
    assert producer.save(snapshot(TRADER, 1))
    wait_until(lambda: producer.health().backend == "memory", 10, "it is in memory")
    assert "risk:{0}:partitioning in Redis holds 'four'" in (producer.health().reason or "")
    agree(client, NEW)
    assert producer.flush(30)
    assert numbers(client, PLACE) == [1]
    assert producer.health().backend == "postgres"


def test_a_trader_moves_with_its_epoch(followed: None, bench: Bench, client: Any) -> None:
    producer = bench.producer()
    producer.push(snapshot(TRADER, 1))
    agree(client, NEW)
    producer.push(snapshot(TRADER, 2))  # with whose answer it hears of the change
    producer.push(snapshot(TRADER, 3))
    assert (numbers(client, FORMER), numbers(client, PLACE)) == ([1, 2], [3])
    [one, other, third] = [*stream_of(client, FORMER), *stream_of(client, PLACE)]
    assert one.epoch == other.epoch == third.epoch
    assert [one.seq, other.seq, third.seq] == [1, 2, 3]
    assert producer.health().partitions == 16


def test_load_finds_the_newest_whatever_it_knows(followed: None, bench: Bench, client: Any) -> None:
    trading, old = bench.producer(), bench.producer(partitions=4)
    trading.push(snapshot(TRADER, 1))
    old.push(snapshot("another", 1))  # from now on it knows of four
    agree(client, OLD.announced(16))
    assert pnl(old.load(TRADER)) == 1
    agree(client, NEW)
    trading.push(snapshot(TRADER, 2))
    assert pnl(old.load(TRADER)) == pnl(bench.producer().load(TRADER)) == 2
    trading.push(snapshot(TRADER, 3))
    assert pnl(old.load(TRADER)) == pnl(bench.producer().load(TRADER)) == 3
    assert old.load("new") is None


def test_a_producer_that_was_superseded_meanwhile_stays_so(followed: None, bench: Bench, client: Any) -> None:
    """As one that was frozen over the change."""
    frozen = bench.producer()
    frozen.push(snapshot(TRADER, 1))
    agree(client, NEW)
    newer = bench.producer()
    newer.push(snapshot(TRADER, 10))
    for number in (2, 3, 4):
        frozen.push(snapshot(TRADER, number))
        assert frozen.health().fenced == (TRADER,)
        assert pnl(newer.load(TRADER)) == pnl(frozen.load(TRADER)) == 10
    newer.push(snapshot(TRADER, 11))
    assert newer.health().fenced == ()
    assert pnl(bench.producer().load(TRADER)) == 11


def test_one_of_a_version_before_is_superseded_where_it_sends(
    followed: None, bench: Bench, client: Any
) -> None:
    before = bench.producer()
    before.push(snapshot(TRADER, 1))
    agree(client, NEW)
    client.delete(Keys(FORMER).partitioning)  # it does not look
    bench.producer().push(snapshot(TRADER, 10))
    before.push(snapshot(TRADER, 2))
    assert before.health().fenced == (TRADER,)
    assert pnl(bench.producer().load(TRADER)) == 10


def test_a_new_epoch_exceeds_what_other_partitions_know(bench: Bench, client: Any) -> None:
    agree(client, NEW)
    far = 2**52
    client.hset(Keys(FORMER).epochs, TRADER, far)
    bench.producer().push(snapshot(TRADER, 1))
    [sent] = stream_of(client, PLACE)
    assert sent.epoch > far
    assert int(client.hget(Keys(FORMER).epochs, TRADER)) == sent.epoch


def test_what_cannot_be_read_elsewhere_holds_back_its_trader_alone(bench: Bench, client: Any) -> None:
    agree(client, NEW)
    client.hset(Keys(FORMER).epochs, TRADER, "x")
    producer = bench.producer()
    assert producer.save(snapshot(TRADER, 1))
    producer.push(snapshot("another", 1))
    wait_until(lambda: "held back" in (producer.health().reason or ""), 10, "it is held back")
    assert f"risk:{{{FORMER}}}:epochs" in (producer.health().reason or "")


def test_what_waited_for_room_in_a_former_partition_moves(followed: None, bench: Bench, client: Any) -> None:
    producer = bench.producer(stream_maxlen=4)
    producer.push(snapshot(TRADER, 1))
    assert producer.save(snapshot(TRADER, 2))
    wait_until(lambda: producer.health().stream_full, 10, "the stream is full")
    agree(client, NEW)
    assert producer.flush(30)
    assert (numbers(client, FORMER), numbers(client, PLACE)) == ([1], [2])
    assert not producer.health().stream_full


def test_an_outage_ends_with_the_partition_that_it_is_of(followed: None, bench: Bench, client: Any) -> None:
    producer = bench.producer()
    producer.push(snapshot("another", 1))
    client.set(Keys(FORMER).epochs, "of another type")
    assert producer.save(snapshot(TRADER, 1))  # unclaimed, so nothing of it is on its way
    wait_until(lambda: producer.health().away == (FORMER,), 10, "a partition is away")
    session: Any = producer.inner._engine.session  # type: ignore[attr-defined]
    agree(client, NEW)
    client.delete(Keys(FORMER).epochs)
    session.divide(NEW, time.monotonic())
    assert producer.flush(30)
    assert (producer.health().backend, producer.health().away) == ("postgres", ())
    assert numbers(client, PLACE) == [1]


def pnl(state: Any) -> float:
    assert state is not None
    assert state.unanswered == ()
    return float(state.snapshot.daily_pnl)
