"""The worker's side of Redis, on the real server."""

from __future__ import annotations

from typing import Any

import pytest

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_worker.drain.batch import Outcome, decode_entries
from risk_worker.drain.errors import SourceUnavailable
from risk_worker.stream.source import StreamSource, connect
from tests.conftest import MakeValkey
from tests.support.factory import payload
from tests.support.reads import read, read_batch
from tests.support.senders import Sender

KEYS = Keys(0)


@pytest.fixture(autouse=True)
def all_admitted(client: Any) -> None:
    admitted = dict.fromkeys(["1:t", *(f"1:trader-{number}-größer" for number in range(2_500))], 10_000)
    client.hset(KEYS.admitted, mapping=admitted)


def seqs(source: StreamSource) -> list[int]:
    return [wire.decode(entry.payload).seq for entry in read(source)]


def test_reading_goes_on_behind_what_was_read_and_after_a_rewind_from_the_beginning(client: Any) -> None:
    source = StreamSource(client, [0], batch_size=2, block_s=0.01)
    assert seqs(source) == []
    for seq in (1, 2, 3):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    assert seqs(source) == [1, 2]
    assert seqs(source) == [3]
    source.rewind()
    assert seqs(source) == [1, 2]


def test_a_full_batch_is_followed_by_the_next(client: Any) -> None:
    source = StreamSource(client, [0], batch_size=2, interval_s=0.001, block_s=0.01)
    for seq in (1, 2, 3, 4):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    assert seqs(source) == [1, 2]
    assert seqs(source) == [3, 4]


def test_redis_that_lost_its_data_is_read_from_the_beginning(client: Any) -> None:
    source = StreamSource(client, [0], block_s=0.01)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    assert seqs(source) == [1]
    client.flushall()
    assert seqs(source) == []
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)}, id="5-0")  # and its clock went back
    assert seqs(source) == [2]


def test_what_is_in_hand_is_not_read_twice_while_others_are_read_ahead(client: Any) -> None:
    source = StreamSource(client, [0], block_s=0.01)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    batch = read_batch(source)
    for _ in range(3):
        assert not source.read(wait=False)
    source.acknowledge([batch], [Outcome((), 0)])
    client.flushall()
    assert not source.read(wait=False)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)}, id="5-0")
    assert len(source.read(wait=False)) == 1, "nothing is in hand any more"


def test_an_acknowledgement_whose_answer_was_lost_counts_once_among_many_traders(client: Any) -> None:
    source = StreamSource(client, [0], batch_size=5_000, block_s=0.01)
    traders = [f"trader-{number}-größer" for number in range(2_500)]
    for first_seq, before in (
        (1, 0),
        (3, 1),
    ):  # what is before the batch is another worker's: cut off nothing
        pipeline = client.pipeline()
        for seq in range(before):
            pipeline.xadd(KEYS.snapshots, {b"s": payload("t", seq + 1)})
        for seq in (first_seq, first_seq + 1):
            for trader in traders:
                pipeline.xadd(KEYS.snapshots, {b"s": payload(trader, seq)})
        pipeline.execute()
        entries = read(source)
        while source.more:
            entries += read(source)
        batch = decode_entries(KEYS.snapshots, entries[before:])
        assert len(batch) == 5_000
        for _ in range(2):
            source.acknowledge([batch], [Outcome((), duplicates=0)])
    counters = client.hgetall(KEYS.counters)
    assert int(counters.pop(b"acknowledged_ms")) > 0
    assert int(counters.pop(b"latency_sum_ms")) > 0
    assert counters == {b"batches": b"2", b"stored": b"10000"}
    assert client.hgetall(KEYS.attempts) == {trader.encode(): b"4" for trader in traders}
    assert set(client.hgetall(KEYS.latency_ms)) == {trader.encode() for trader in traders}
    assert sum(map(int, client.hvals(KEYS.latency_buckets))) == 10_000
    assert client.xlen(KEYS.snapshots) == 1


def test_two_workers_with_the_same_entries_count_each_once(client: Any) -> None:
    for seq in range(1, 11):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    first = StreamSource(client, [0], batch_size=3, block_s=0.01)
    second = StreamSource(client, [0], batch_size=10, block_s=0.01)
    three = read_batch(first)
    four = read_batch(second)
    six = read_batch(second)
    more = read_batch(first)
    assert [len(batch) for batch in (three, four, six, more)] == [3, 4, 6, 3]
    for source, batch in ((first, three), (second, six), (second, four), (first, more)):
        source.acknowledge([batch], [Outcome((), duplicates=0)])
    assert client.hget(KEYS.counters, "stored") == b"10"
    assert client.hget(KEYS.attempts, "t") == b"10"
    assert sum(map(int, client.hvals(KEYS.latency_buckets))) == 10


def test_a_batch_at_the_head_is_cut_off_and_what_came_behind_it_stays(client: Any) -> None:
    source = StreamSource(client, [0], block_s=0.01)
    for seq in (1, 2, 3):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    batch = read_batch(source)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 4)})
    client.xdel(KEYS.snapshots, batch.rows[1].entry_id)  # by hand, and it is stored all the same
    source.acknowledge([batch], [Outcome((), duplicates=0)])
    assert client.hget(KEYS.counters, "stored") == b"2"
    assert seqs(source) == [4]


def test_what_came_after_redis_lost_its_data_is_not_taken_off(client: Any) -> None:
    source = StreamSource(client, [0], block_s=0.01)
    for seq in (1, 2, 3):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)}, id=f"{seq}0-0")
    batch = read_batch(source)
    client.flushall()
    for number in (15, 25, 35):  # its clock went back
        client.xadd(KEYS.snapshots, {b"s": payload("t", number)}, id=f"{number}-0")
    source.acknowledge([batch], [Outcome((), duplicates=0)])
    source.rewind()
    assert seqs(source) == [15, 25, 35]


def test_a_server_that_is_not_there_is_said_so() -> None:
    with connect("redis://127.0.0.1:1/0") as nobody, pytest.raises(SourceUnavailable):
        StreamSource(nobody, [0]).read()


def counted(client: Any) -> dict[str, int]:
    found = {name.decode(): int(count) for name, count in client.hgetall(KEYS.counters).items()}
    for name in ("acknowledged_ms", "latency_sum_ms"):
        found.pop(name, None)
    return found


@pytest.mark.parametrize("whole", [True, False], ids=["cut off as one", "one by one"])
def test_what_no_producer_admitted_is_counted_as_foreign_and_the_totals_balance(
    client: Any, whole: bool
) -> None:
    sender = Sender(client, "a")
    sender.add(3)
    assert sender.send() is None
    assert sender.epoch is not None
    source = StreamSource(client, [0], batch_size=100, block_s=0.01)
    source._count = 100
    foreign: list[dict[bytes, bytes]] = [{b"s": b"nonsense"}, {b"x": b"y"}]
    if not whole:
        foreign += [
            {b"s": payload("a", 9, epoch=sender.epoch)},  # a seq that it never had
            {b"s": payload("a", 1, epoch=sender.epoch - 1)},  # an epoch without one
            {b"s": payload("nobody", 1)},
        ]
    for fields in foreign:
        client.xadd(KEYS.snapshots, fields)
    sender.add(1)
    assert sender.send() is None
    batch = read_batch(source)
    source.examine([batch])
    for _ in range(2):
        source.acknowledge([batch], [Outcome(batch.dead, duplicates=0)])
    counters = counted(client)
    assert counters["foreign"] == len(foreign)
    assert counters["accepted"] == 4
    assert counters["accepted"] + counters["foreign"] == counters["stored"] + counters["dead"]
    assert client.xlen(KEYS.snapshots) == 0


def test_redis_out_of_memory_refuses_a_batch_as_a_whole_and_takes_an_acknowledgement(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey(appendfsync="no", maxmemory_policy="noeviction")
    with connect(server.url) as client:
        sender = Sender(client, "a")
        sender.add(10)
        assert sender.send() is None
        source = StreamSource(client, [0], batch_size=100, block_s=0.01)
        source._count = 100
        batch = read_batch(source)
        client.config_set("maxmemory", 1)
        before = client.hgetall(KEYS.admitted)
        sender.add(10)
        assert "OutOfMemory" in (sender.send() or "")
        newcomer = Sender(client, "b")
        newcomer.add()
        assert "OutOfMemory" in (newcomer.send() or "")
        assert client.hgetall(KEYS.admitted) == before
        assert client.xlen(KEYS.snapshots) == 10
        source.acknowledge([batch], [Outcome((), duplicates=0)])
        assert client.xlen(KEYS.snapshots) == 0
        counters = counted(client)
        assert (counters["stored"], counters["accepted"]) == (10, 10)
        client.config_set("maxmemory", 0)
        assert (sender.send(), newcomer.send()) == (None, None)
        assert client.xlen(KEYS.snapshots) == 11
