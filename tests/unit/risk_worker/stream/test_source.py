"""The worker's side of Redis, on fakeredis. The same on the real server: tests/integration/worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import redis

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import identity_of
from risk_worker.drain.batch import DeadLetter, Outcome, StreamEntry, decode_entries
from risk_worker.stream import source as module
from risk_worker.stream.bindings import Bindings
from risk_worker.stream.source import StreamSource
from tests.support.factory import START, payload
from tests.support.reads import read, read_batch
from tests.support.wait import wait_until

KEYS = Keys(0)


@pytest.fixture(autouse=True)
def all_admitted(client: redis.Redis) -> None:
    client.hset(KEYS.admitted, mapping=dict.fromkeys(("1:t", "1:a", "1:b"), 10_000))


@pytest.fixture
def source(client: redis.Redis) -> StreamSource:
    return StreamSource(client, [0], batch_size=10, block_s=0.01)


def counters(client: Any) -> dict[str, int]:
    found = {k.decode(): int(v) for k, v in client.hgetall(KEYS.counters).items()}
    for name in ("acknowledged_ms", "latency_sum_ms"):
        found.pop(name, None)
    return found


def test_entries_come_in_order_and_acknowledged_ones_leave_the_stream(
    source: StreamSource, client: redis.Redis
) -> None:
    for seq in (1, 2, 3):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    batch = read_batch(source)
    assert [row.snapshot.seq for row in batch.rows] == [1, 2, 3]
    source.acknowledge([batch], [Outcome((), duplicates=0)])
    assert client.xlen(KEYS.snapshots) == 0
    assert counters(client) == {"batches": 1, "stored": 3}
    assert client.hget(KEYS.attempts, "t") == b"3"
    assert source.is_empty()


def test_a_repeated_acknowledgement_counts_nothing_twice(source: StreamSource, client: redis.Redis) -> None:
    for trader in "ab":
        client.xadd(KEYS.snapshots, {b"s": payload(trader, 1)})
    batch = read_batch(source)
    for _ in range(3):
        source.acknowledge([batch], [Outcome((), duplicates=0)])
    assert counters(client) == {"batches": 1, "stored": 2}
    buckets = client.hgetall(KEYS.latency_buckets)
    assert sum(int(v) for v in buckets.values()) == 2


def test_the_latency_ends_when_the_commit_came_however_late_it_is_acknowledged(
    source: StreamSource, client: redis.Redis
) -> None:
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1, recorded_at=START)})
    source.acknowledge([read_batch(source)], [Outcome((), duplicates=0)], START + timedelta(milliseconds=70))
    assert client.hget(KEYS.latency_ms, "t") == b"70.000"
    assert client.hget(KEYS.counters, "latency_sum_ms") == b"70"


def test_a_successor_reads_what_its_predecessor_left(source: StreamSource, client: redis.Redis) -> None:
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    assert len(read(source)) == 1
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)})
    successor = StreamSource(client, [0], batch_size=10, block_s=0.01)
    assert [wire.decode(e.payload).seq for e in read(successor)] == [1, 2]
    assert read(successor) == []
    assert [wire.decode(e.payload).seq for e in read(successor)] == [1, 2]


def test_dead_letters_are_counted_by_trader_where_it_is_known(
    source: StreamSource, client: redis.Redis
) -> None:
    client.xadd(KEYS.snapshots, {b"s": b"nonsense"})
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)})
    batch = read_batch(source)
    [bad] = batch.dead
    assert bad.payload == b"nonsense"
    refused = DeadLetter(
        batch.rows[1].entry_id,
        "too large",
        batch.rows[1].payload,
        "22003",
        identity_of(batch.rows[1].payload),
    )
    source.acknowledge([batch], [Outcome([bad, refused], duplicates=1)])
    assert counters(client) == {"batches": 1, "stored": 1, "dead": 2, "duplicates": 1, "foreign": 1}
    assert client.hget(KEYS.attempts, "t") == b"2"
    assert client.hget(KEYS.failures, "t") == b"1"
    assert client.xlen(KEYS.snapshots) == 0


@pytest.mark.parametrize("fields", [{b"x": b"1"}, {b"s": b"{}", b"more": b"\xff"}, {b"t": b"a", b"u": b"b"}])
def test_entries_that_somebody_added_by_hand_keep_their_bytes(
    source: StreamSource, client: Any, fields: dict[bytes, bytes]
) -> None:
    client.execute_command("XADD", KEYS.snapshots, "*", *[x for kv in fields.items() for x in kv])
    [entry] = read(source)
    assert entry.defect is not None
    for key in fields:
        assert key in entry.payload


def test_many_entries_of_one_trader_are_settled_in_slices(client: redis.Redis) -> None:
    source = StreamSource(client, [0], batch_size=3000, block_s=0.01)
    pipeline = client.pipeline()
    for seq in range(1, 2502):
        pipeline.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    pipeline.execute()
    entries = read(source)
    while source.more:
        entries += read(source)
    source.acknowledge([decode_entries(KEYS.snapshots, entries)], [Outcome((), duplicates=0)])
    assert counters(client)["stored"] == 2501
    assert client.xlen(KEYS.snapshots) == 0


def test_reads_grow_while_they_are_small_and_shrink_after_a_large_one(client: redis.Redis) -> None:
    source = StreamSource(client, [0], batch_size=100, block_s=0.01)
    for _ in range(4 + 16 + 64 + 90):
        client.xadd(KEYS.snapshots, {b"s": b"small"})
    for _ in range(10):
        client.xadd(KEYS.snapshots, {b"s": b"x" * 8 * 1024 * 1024})
    assert [len(read(source)) for _ in range(4)] == [4, 16, 64, 100], "these were 80 MiB"
    source._partitions[0].after = client.xrange(KEYS.snapshots)[-11][0].decode()  # type: ignore[index, union-attr]
    source._count = 100
    assert len(read(source)) == 10, "and so were these"
    source.rewind()
    source._partitions[0].after = client.xrange(KEYS.snapshots)[-11][0].decode()  # type: ignore[index, union-attr]
    assert [len(read(source)) for _ in range(3)] == [4, 4, 2], "no more than 32 MiB"
    source.rewind()
    assert [len(read(source)) for _ in range(3)] == [4, 16, 64]


def test_more_is_said_only_of_a_full_read(source: StreamSource, client: redis.Redis) -> None:
    for seq in range(1, 16):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
    assert (len(read(source)), source.more) == (4, True)
    assert (len(read(source)), source.more) == (10, True), "the batch size"
    assert (len(read(source)), source.more) == (1, False)
    assert (len(read(source)), source.more) == (0, False)


def test_an_epoch_that_could_not_be_read_for_a_while_admits_no_forged_one_later(
    source: StreamSource, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def examined(*epochs: int) -> list[int]:
        entries = [
            StreamEntry(f"{at}-0", payload("t", at).replace(b'"epoch":1', b'"epoch":%d' % epoch))
            for at, epoch in enumerate(epochs, 1)
        ]
        batch = decode_entries(KEYS.snapshots, entries)
        source.examine([batch])
        return [row.snapshot.epoch for row in batch.rows]

    client.hset(KEYS.epochs, "t", b"\xff")
    assert examined(5, 7) == [5, 7], "nothing that a producer sent is held up"
    assert examined(7) == [7]
    assert len(caplog.messages) == 1
    client.hset(KEYS.epochs, "t", "7")
    assert examined(5, 7, 10**9) == [5, 7]
    client.hset(KEYS.epochs, "t", b"\xff")
    assert examined(8, 7) == [8, 7]


class PassingTime:
    """The clock of the source. What is asked of it happens while the source waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waits: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 6))
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> PassingTime:
    return PassingTime(monkeypatch)


def test_a_lone_entry_is_read_at_once_and_the_next_read_is_an_interval_later(
    client: redis.Redis, time: PassingTime
) -> None:
    source = StreamSource(client, [0], interval_s=0.005, block_s=0.01)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    assert [wire.decode(each.payload).seq for each in read(source)] == [1]
    assert time.waits == [], "nothing was read before"
    time.now += 0.002  # the transaction
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)})
    time.meanwhile = lambda: client.xadd(KEYS.snapshots, {b"s": payload("t", 3)})
    assert [wire.decode(each.payload).seq for each in read(source)] == [2, 3], "the batch grew"
    assert time.waits == [0.003]


@pytest.mark.parametrize("later_s", [0.005, 0.02, 60.0])
def test_nothing_waits_once_the_interval_is_over(
    client: redis.Redis, time: PassingTime, later_s: float
) -> None:
    """As with entries that come rarely, and with transactions that take longer."""
    source = StreamSource(client, [0], interval_s=0.005, block_s=0.01)
    for seq in (1, 2, 3):
        client.xadd(KEYS.snapshots, {b"s": payload("t", seq)})
        assert len(read(source)) == 1
        time.now += later_s
    assert time.waits == []


def test_a_read_that_found_nothing_and_one_ahead_of_the_database_are_followed_at_once(
    source: StreamSource, client: redis.Redis, time: PassingTime
) -> None:
    source = StreamSource(client, [0], interval_s=0.005, block_s=0.01)
    for _ in range(3):
        assert not read(source)
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    assert len(source.read(wait=False)) == 1
    client.xadd(KEYS.snapshots, {b"s": payload("t", 2)})
    assert len(source.read(wait=False)) == 1
    assert time.waits == []


def test_what_comes_while_a_batch_grows_is_bounded_too(client: redis.Redis, time: PassingTime) -> None:
    def flood() -> None:
        for partition in range(16):
            for _ in range(10):
                client.xadd(Keys(partition).snapshots, {b"s": b"x"})

    source = StreamSource(client, range(16), batch_size=16, interval_s=1.0, block_s=0.01)
    source._count = 16
    client.xadd(Keys(3).snapshots, {b"s": b"x"})
    assert sum(len(entries) for _, entries in source.read()) == 1
    time.meanwhile = flood
    assert sum(len(entries) for _, entries in source.read()) == 16


@pytest.mark.parametrize("partitions", [1, 5, 16, 256])
def test_the_bytes_of_all_streams_together_are_bounded(
    client: redis.Redis, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kib = 1024
    monkeypatch.setattr(module, "_READ_BYTES", 32 * kib)
    for partition in range(partitions):
        for _ in range(max(2, 20 // partitions)):
            client.xadd(Keys(partition).snapshots, {b"s": b"x" * 8 * kib})
    source = StreamSource(client, range(partitions), batch_size=5_000, block_s=0.01)
    waiting = partitions * max(2, 20 // partitions)
    while waiting:
        pieces = source.read()
        assert 0 < sum(len(each.payload) for _, entries in pieces for each in entries) <= 32 * kib
        for stream, entries in pieces:
            waiting -= client.xdel(stream, *(each.id for each in entries))
    assert source.is_empty()


def test_a_batch_in_hand_is_not_acknowledged_to_the_stream_of_another_database(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis is replaced by another deployment's file meanwhile, and its ids are equal by chance."""
    own, other = str(UUID(int=1)), str(UUID(int=2))
    source = StreamSource(client, [0], block_s=0.01, bindings=Bindings(client, own))
    client.xadd(KEYS.snapshots, {b"s": payload("t", 1)})
    batch = read_batch(source)
    client.set(KEYS.database, other)
    source.acknowledge([batch], [Outcome((), duplicates=0)])
    assert client.xlen(KEYS.snapshots) == 1
    assert counters(client) == {}
    [message] = [each for each in caplog.messages if "cannot store" in each]
    assert message.startswith("The worker cannot store partition 0, as it is another database's")
    assert f"{KEYS.database} names the database {other}, and this database is {own}" in message
    client.set(KEYS.database, own)
    [again] = wait_until(lambda: source.read(), what="it is read again")
    source.acknowledge([decode_entries(*again)], [Outcome((), duplicates=1)])
    assert counters(client) == {"batches": 1, "stored": 1, "duplicates": 1}
