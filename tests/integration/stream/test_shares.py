"""A source that reads the streams of several partitions, on the real server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from risk_producer.contract.keys import Keys
from risk_worker.drain.batch import Batch, Outcome, decode_entries
from risk_worker.stream.source import StreamSource
from tests.support.factory import payload
from tests.support.wait import wait_until


def add(client: Any, partition: int, count: int = 1, *, first: int = 1, entry_id: str = "*") -> None:
    pipeline = client.pipeline(transaction=False)
    for seq in range(first, first + count):
        pipeline.xadd(Keys(partition).snapshots, {b"s": payload(f"t{partition}", seq)}, id=entry_id)
        pipeline.hset(Keys(partition).admitted, f"1:t{partition}", seq)
    pipeline.execute()


def batches(source: StreamSource, *, wait: bool = False) -> list[Batch]:
    return [decode_entries(stream, entries) for stream, entries in source.read(wait=wait)]


def acknowledge(source: StreamSource, read: Sequence[Batch]) -> None:
    source.acknowledge(read, [Outcome(batch.dead, duplicates=0) for batch in read])


def drained(source: StreamSource, rounds: int = 50) -> tuple[Counter[str], int]:
    """(entries by stream, the most that one read gave) until nothing comes for two reads."""
    found: Counter[str] = Counter()
    most = 0
    for _ in range(rounds):
        read = batches(source)
        acknowledge(source, read)
        found += Counter({batch.stream: len(batch) for batch in read})
        most = max(most, sum(map(len, read)))
    return found, most


def is_drained(source: StreamSource) -> bool:
    """After some more reads."""
    drained(source, rounds=3)
    return source.is_empty()


def lengths(client: Any, partitions: int) -> list[int]:
    return [client.xlen(Keys(partition).snapshots) for partition in range(partitions)]


def test_all_streams_are_read_at_once_and_each_is_acknowledged(client: Any) -> None:
    source = StreamSource(client, range(4), block_s=0.01)
    source._count = 100
    for partition in (0, 2, 3):
        add(client, partition, 5)
    read = batches(source)
    assert [(batch.stream, len(batch)) for batch in read] == [(Keys(p).snapshots, 5) for p in (0, 2, 3)]
    assert [[row.snapshot.seq for row in batch.rows] for batch in read] == [[1, 2, 3, 4, 5]] * 3
    acknowledge(source, read)
    acknowledge(source, read)
    assert lengths(client, 4) == [0] * 4
    assert [client.hget(Keys(p).counters, "stored") for p in range(4)] == [b"5", None, b"5", b"5"]
    assert source.is_empty()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16, 100])
def test_a_read_gives_no_more_than_the_batch_size_in_all_and_nobody_starves(
    client: Any, batch_size: int
) -> None:
    partitions = 16
    for partition in range(partitions):
        add(client, partition, 10 if partition else 100)
    source = StreamSource(client, range(partitions), batch_size=batch_size, block_s=0.01)
    first, most = drained(source, rounds=-(-partitions // min(batch_size, 4)))
    assert most <= batch_size
    assert len(first) == partitions, "in so many reads each had its turn"
    while sum(lengths(client, partitions)):
        _, most = drained(source)
        assert most <= batch_size


def test_one_stream_may_have_what_the_others_leave(client: Any) -> None:
    add(client, 5, 1_000)
    source = StreamSource(client, range(16), batch_size=200, block_s=0.01)
    sizes = []
    while not source.is_empty():
        read = batches(source)
        acknowledge(source, read)
        sizes.append(sum(map(len, read)))
    assert 200 in sizes, sizes
    assert len(sizes) < 15, sizes


@pytest.mark.parametrize("count", [4, 100])
def test_a_wait_ends_with_an_entry_in_any_of_the_streams(client: Any, count: int) -> None:
    source = StreamSource(client, range(16), block_s=30.0)
    source._count = count
    with ThreadPoolExecutor(1) as threads:
        for partition in (15, 0, 7):
            reading = threads.submit(batches, source, wait=True)
            wait_until(lambda: client.info("clients")["blocked_clients"], what="the read to wait")
            add(client, partition)
            [batch] = reading.result(20)
            assert batch.stream == Keys(partition).snapshots
            acknowledge(source, [batch])


def test_a_stream_that_cannot_be_read_is_left_out_and_tried_alone(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add(client, 0)
    source = StreamSource(client, range(4), block_s=0.01)
    acknowledge(source, batches(source))
    client.set(Keys(1).snapshots, "x")
    with caplog.at_level(logging.WARNING):
        for number in range(1, 6):
            for partition in (0, 2, 3):
                add(client, partition, first=number)
            assert drained(source, rounds=5)[0].total() == 3, "the others go on"
        assert source.read(wait=True) == []
        client.delete(Keys(1).snapshots)
        add(client, 1, 7)
        wait_until(lambda: is_drained(source), what="it is back")
    first, last = caplog.messages
    assert first.startswith("The worker cannot store partition 1, as Redis does not serve it: WRONGTYPE")
    assert last.startswith("The worker stores all partitions again: partition 1 answered after ")
    assert client.hget(Keys(1).counters, "stored") == b"7"


def test_all_streams_may_be_unreadable(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    for partition in range(3):
        client.set(Keys(partition).snapshots, "x")
    source = StreamSource(client, range(3), block_s=0.01)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert source.read(wait=True) == []
        assert source.is_empty()
        for partition in range(3):
            client.delete(Keys(partition).snapshots)
            add(client, partition)
        wait_until(lambda: is_drained(source), what="all are back")
        source.read()
    assert len(caplog.messages) == 2
    assert "partitions 0, 1, 2 answered after " in caplog.messages[1]


def test_an_acknowledgement_that_one_partition_refuses_is_made_of_the_others(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = StreamSource(client, range(3), block_s=0.01)
    source._count = 100
    for partition in range(3):
        add(client, partition, 2)
    read = batches(source)
    client.rename(Keys(1).snapshots, "kept")
    client.set(Keys(1).snapshots, "x")
    acknowledge(source, read)
    assert [client.hget(Keys(p).counters, "stored") for p in range(3)] == [b"2", None, b"2"]
    client.delete(Keys(1).snapshots)
    client.rename("kept", Keys(1).snapshots)
    add(client, 1, first=3)
    [again] = wait_until(lambda: batches(source), what="it is tried again")
    acknowledge(source, [again])
    wait_until(lambda: is_drained(source), what="it is back")
    assert again.rows[0].snapshot.seq == 1, "what was not acknowledged comes first"
    assert client.hget(Keys(1).counters, "stored") == b"3"
    assert len(caplog.messages) == 2


def test_scripts_that_redis_has_forgotten_are_loaded_again(client: Any) -> None:
    source = StreamSource(client, range(3), block_s=0.01)
    for _ in range(2):
        client.script_flush()
        for partition in range(3):
            add(client, partition)
        drained(source, rounds=5)
        assert lengths(client, 3) == [0] * 3


def test_entries_that_other_workers_took_off_are_listed_partition_by_partition(client: Any) -> None:
    """Two workers on the same partitions, as while shares change."""
    first, second = (StreamSource(client, range(3), block_s=0.01) for _ in range(2))
    first._count = second._count = 100
    for partition in range(3):
        add(client, partition, 4)
    ours = batches(first)
    add(client, 1, 2, first=5)
    theirs = batches(second)
    acknowledge(second, theirs[1:])
    acknowledge(first, ours)
    acknowledge(second, theirs)
    assert lengths(client, 3) == [0] * 3
    assert [client.hget(Keys(p).counters, "stored") for p in range(3)] == [b"4", b"6", b"4"]


def test_a_partition_that_lost_its_data_is_read_from_its_beginning_while_another_has_a_backlog(
    client: Any,
) -> None:
    source = StreamSource(client, [0, 1], batch_size=10, block_s=0.01)
    source._count = 10
    add(client, 0, 200)
    add(client, 1)
    acknowledge(source, batches(source))
    client.delete(Keys(1).snapshots)
    acknowledge(source, batches(source))
    add(client, 1, entry_id="5-0")  # its clock went back
    acknowledge(source, batches(source))
    assert lengths(client, 2)[1] == 0
    assert lengths(client, 2)[0] > 0


def test_what_is_read_ahead_is_not_read_again_before_it_is_acknowledged(client: Any) -> None:
    """A partition may be absent from a read while its entries of the read before are being stored."""
    source = StreamSource(client, [0, 1], batch_size=10, block_s=0.01)
    source._count = 10
    add(client, 0, 40)
    add(client, 1)
    one = batches(source, wait=True)
    two = batches(source)  # while the first is being stored
    assert [batch.stream for batch in two] == [Keys(0).snapshots]
    acknowledge(source, one)
    three = batches(source)
    assert [batch.stream for batch in three] == [Keys(0).snapshots]
    for read in (two, three):
        acknowledge(source, read)
    assert client.hget(Keys(1).counters, "stored") == b"1"


def test_a_stream_that_gave_all_it_might_and_has_no_more_is_not_read_again(client: Any) -> None:
    source = StreamSource(client, range(3), block_s=0.01)
    source._count = 9
    add(client, 0, 3)
    [batch] = batches(source)
    assert len(batch) == 3
    assert batches(source) == [], "it is being stored"
