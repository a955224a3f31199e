"""A source over several partitions of a Redis Cluster: a node is away, says nothing, or loses a slot.

Acknowledgements and counts are exact whatever happens; and the partitions of the other nodes go on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from risk_devkit.embedded import EmbeddedValkey
from risk_devkit.groups import ValkeyCluster
from risk_producer.contract.keys import NO_NAMESPACE, Keys
from risk_producer.transport import servers
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import server_of
from risk_worker.drain.batch import Batch, Outcome, decode_entries
from risk_worker.drain.errors import SourceUnavailable
from risk_worker.monitor import exporter
from risk_worker.stream import partitions, progress, server
from risk_worker.stream import source as streams
from risk_worker.stream.follow import Follower, Outage
from risk_worker.stream.outages import LONGEST_WAIT_S
from risk_worker.stream.source import StreamSource
from tests.support.clock import FakeClock
from tests.support.desks import Desks
from tests.support.factory import payload
from tests.support.servers import server_folder
from tests.support.wait import wait_until

PARTITIONS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Without replicas: what is killed is away until it is started again, with its data."""
    with server_folder() as folder, ValkeyCluster(folder, replicas=0) as running:
        yield running


@pytest.fixture
def client(cluster: ValkeyCluster) -> Iterator[RedisClient]:
    """As the worker has it; the streams and counters are empty."""
    for node in cluster.nodes:
        with redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5) as one:
            one.flushall()
    with streams.connect(cluster.url) as connected:
        yield connected


class Drain:
    """Reads and acknowledges, and remembers what it has had of each partition."""

    def __init__(self, client: RedisClient, partitions: range | list[int] = range(PARTITIONS)) -> None:
        self.client = client
        self.source = StreamSource(client, partitions, block_s=0.01)
        self.had: Counter[int] = Counter()

    def read(self, *, wait: bool = False) -> list[Batch]:
        return self.source.examine(
            [decode_entries(stream, entries) for stream, entries in self.source.read(wait=wait)]
        )

    def acknowledge(self, batches: list[Batch]) -> None:
        self.source.acknowledge(batches, [Outcome(batch.dead, duplicates=0) for batch in batches])
        self.had += Counter({number_of(batch): len(batch) for batch in batches})

    def step(self) -> None:
        if batches := self.read():
            self.acknowledge(batches)

    def is_done(self) -> bool:
        """After another step."""
        self.step()
        return self.source.is_empty()

    def until(self, partitions: set[int], count: int) -> None:
        """Until at least so many entries of each have come."""

        def come() -> bool:
            self.step()
            return all(self.had[each] >= count for each in partitions)

        wait_until(come, 10, f"{count} entries of each of {sorted(partitions)}; {self.had}")


def number_of(batch: Batch) -> int:
    return next(each for each in range(PARTITIONS) if Keys(each).snapshots == batch.stream)


def add(client: Any, partition: int, seq: int) -> None:
    """As a producer does: an entry, and what Redis knows of its incarnation."""
    keys = Keys(partition)
    client.hset(keys.epochs, f"t{partition}", 1)
    client.hset(keys.admitted, f"1:t{partition}", seq)
    client.xadd(keys.snapshots, {b"s": payload(f"t{partition}", seq)})


def of(node: EmbeddedValkey, cluster: ValkeyCluster) -> set[int]:
    """The partitions of a node."""
    return {each for each in range(PARTITIONS) if cluster.master_of(Keys(each).snapshots) is node}


def all_answer(client: Any) -> bool:
    with contextlib.suppress(*REDIS_ERRORS):
        return not partitions.look(client, NO_NAMESPACE, PARTITIONS).away
    return False


def stored(client: Any, partition: int) -> int:
    return int(client.hget(Keys(partition).counters, "stored") or 0)


def parts(cluster: ValkeyCluster) -> tuple[EmbeddedValkey, set[int], set[int]]:
    """A node, its partitions, and the others."""
    node = cluster.master_of(Keys(0).snapshots)
    own = of(node, cluster)
    return node, own, set(range(PARTITIONS)) - own


def is_exact(drain: Drain, counts: dict[int, int]) -> None:
    """Each stream is empty, and each entry was counted once."""
    assert {each: stored(drain.client, each) for each in counts} == counts
    assert all(drain.client.xlen(Keys(each).snapshots) == 0 for each in counts)


def test_all_partitions_are_read_and_acknowledged_exactly(client: RedisClient) -> None:
    drain = Drain(client)
    assert len({server_of(client, Keys(each).snapshots) for each in range(PARTITIONS)}) == 3
    for partition in range(PARTITIONS):
        for seq in (1, 2, 3):
            add(client, partition, seq)
    drain.until(set(range(PARTITIONS)), 3)
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 3))


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of outages of partitions; the clocks of a node that stood still are another matter."""
    return [each.getMessage() for each in caplog.records if each.name == "riskstream.outages"]


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
def test_a_node_that_is_away_holds_up_its_own_partitions_alone(
    cluster: ValkeyCluster, client: RedisClient, frozen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    node, own, others = parts(cluster)
    drain = Drain(client)
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    drain.until(own | others, 1)
    for partition in own:
        add(client, partition, 2)
    with caplog.at_level(logging.WARNING):
        node.pause() if frozen else node.kill()
        try:
            for seq in range(2, 12):
                for partition in others:
                    add(client, partition, seq)
                drain.until(others, seq)
        finally:
            node.resume() if frozen else node.start()
        drain.until(own, 2)
    assert drain.source.is_empty()
    is_exact(drain, dict.fromkeys(own, 2) | dict.fromkeys(others, 11))
    first, last = outages(caplog)
    assert first.startswith(f"The worker cannot store partition{'s' if len(own) > 1 else ''} ")
    assert "it goes on with the other partitions" in first
    assert last.startswith("The worker stores all partitions again: ")


@pytest.mark.parametrize("alone", [False, True], ids=["with others", "alone"])
@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
def test_a_node_that_goes_before_the_acknowledgement_gets_it_again(
    cluster: ValkeyCluster, client: RedisClient, frozen: bool, alone: bool
) -> None:
    """alone: nothing else is in the transaction."""
    node, own, others = parts(cluster)
    drain = Drain(client)
    for partition in own if alone else range(PARTITIONS):
        add(client, partition, 1)
    drain.source._count = 100
    batches = drain.read()
    assert {number_of(batch) for batch in batches} >= own
    node.pause() if frozen else node.kill()
    try:
        drain.acknowledge(batches)
        if not alone:
            assert all(stored(client, each) == 1 for each in others)
    finally:
        node.resume() if frozen else node.start()
    wait_until(drain.is_done, 10, "the rest")
    is_exact(drain, dict.fromkeys(own if alone else range(PARTITIONS), 1))


def test_what_was_read_before_a_node_went_away_does_not_wait_for_it_once_more(
    cluster: ValkeyCluster, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the next batches are read ahead: the others' partitions would stand still for both."""
    node, _, others = parts(cluster)
    drain = Drain(client)
    drain.source._count = 100
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    batches = drain.read()
    asked: list[int] = []
    ask_node = servers._ask_node

    def counted(connected: Any, to: Any, *rest: Any) -> Any:
        asked.append(to.port)
        return ask_node(connected, to, *rest)

    node.pause()
    try:
        monkeypatch.setattr(servers, "_ask_node", counted)
        drain.read()
        drain.acknowledge(batches)
        drain.source.failed(batches)
        assert asked.count(node.port) == 1
        assert all(stored(client, each) == 1 for each in others)
    finally:
        node.resume()
    wait_until(drain.is_done, 10, "the rest")
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 1))


def test_a_batch_whose_epochs_cannot_be_asked_for_comes_again(
    cluster: ValkeyCluster, client: RedisClient
) -> None:
    """The node goes between the read and the question which epochs it gave out."""
    node, own, others = parts(cluster)
    drain = Drain(client)
    drain.source._count = 100
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    batches = [decode_entries(stream, entries) for stream, entries in drain.source.read()]
    node.kill()
    try:
        known = drain.source.examine(batches)
        assert {number_of(batch) for batch in known} == others
        drain.acknowledge(known)
    finally:
        node.start()
    drain.until(own, 1)
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 1))
    assert drain.had == dict.fromkeys(range(PARTITIONS), 1)


def test_a_key_of_a_wrong_type_holds_up_one_partition(
    client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    drain = Drain(client)
    client.set(Keys(2).snapshots, "x")
    others = set(range(PARTITIONS)) - {2}
    with caplog.at_level(logging.WARNING):
        for seq in range(1, 6):
            for partition in others:
                add(client, partition, seq)
            drain.until(others, seq)
        client.delete(Keys(2).snapshots)
        add(client, 2, 1)
        drain.until({2}, 1)
    is_exact(drain, dict.fromkeys(others, 5) | {2: 1})
    first, last = outages(caplog)
    assert first.startswith("The worker cannot store partition 2, as Redis does not serve it: WRONGTYPE")
    assert last.startswith("The worker stores all partitions again: partition 2 answered after ")


def test_a_slot_that_moves_costs_nothing(
    cluster: ValkeyCluster, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Between a read and its acknowledgement, and before a read."""
    drain = Drain(client)
    drain.source._count = 100
    with caplog.at_level(logging.WARNING):
        for seq in range(1, 4):
            for partition in range(PARTITIONS):
                add(client, partition, seq)
            batches = drain.read()
            node = cluster.master_of(Keys(seq).snapshots)
            other = next(each for each in cluster.nodes if each is not node)
            cluster.move_slot(Keys(seq).snapshots, other)
            drain.acknowledge(batches)
            drain.until(set(range(PARTITIONS)), seq)
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 3))
    assert drain.had == dict.fromkeys(range(PARTITIONS), 3)
    assert caplog.messages == []


def test_a_slot_that_stays_half_moved_holds_up_its_own_partition_alone(
    cluster: ValkeyCluster, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Some of its keys are on either node, which scripts answer with TRYAGAIN; the move is made later."""
    node = cluster.master_of(Keys(4).snapshots)
    other = next(each for each in cluster.nodes if each is not node)
    others = set(range(PARTITIONS)) - {4}
    drain = Drain(client)
    drain.source._count = 100
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    drain.until(set(range(PARTITIONS)), 1)
    keys = Keys(4)
    with (
        caplog.at_level(logging.WARNING),
        redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5) as old,
        redis_client(other.url, answer_timeout_s=5, connect_timeout_s=5) as new,
    ):
        slot = old.execute_command("CLUSTER KEYSLOT", keys.snapshots)
        old_id, new_id = (each.execute_command("CLUSTER MYID").decode() for each in (old, new))
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        to = ("MIGRATE", "127.0.0.1", other.port)
        old.execute_command(*to, keys.counters, 0, 5_000)
        old.execute_command(*to, keys.epochs, 0, 5_000, "COPY")  # as where the answer was lost
        old.xadd(keys.snapshots, {b"s": payload("t4", 2)})
        old.hset(keys.admitted, "1:t4", 2)
        for seq in range(2, 6):
            for partition in others:
                add(client, partition, seq)
            drain.until(others, seq)
        assert old.xlen(keys.snapshots) == 1
        cluster.move_slot(keys.snapshots, other)
        drain.until({4}, 2)
        wait_until(drain.is_done, 10, "the rest")
    is_exact(drain, {4: 2} | dict.fromkeys(others, 5))
    lines = [each.getMessage() for each in caplog.records if each.name == "riskstream.outages"]
    assert len(lines) == 2, lines
    assert lines[0].startswith("The worker cannot store partition 4, as Redis does not serve it:")


@pytest.mark.parametrize("one", [True, False], ids=["one partition", "all of its node"])
def test_a_share_whose_node_is_away_waits_for_it_as_partitions_do(
    cluster: ValkeyCluster, client: RedisClient, one: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no outage of all of Redis, for which the drain waits much longer between its tries."""
    node, own, _ = parts(cluster)
    share = [0] if one else sorted(own)
    drain = Drain(client, share)
    drain.source._count = 100
    for partition in share:
        add(client, partition, 1)
    batches = drain.read(wait=True)
    with caplog.at_level(logging.WARNING):
        for frozen in (True, False):
            node.pause() if frozen else node.kill()
            try:
                assert drain.read(wait=True) == []
                drain.acknowledge(batches)
                assert drain.source._outages.next_due_s() <= LONGEST_WAIT_S
            finally:
                node.resume() if frozen else node.start()
            cluster.wait_until_whole()
            for partition in share:
                add(client, partition, 2 if frozen else 3)
            drain.had.clear()
            drain.until(set(share), 1)
            wait_until(drain.is_done, 10, "the rest")
    is_exact(drain, dict.fromkeys(share, 3))
    said = outages(caplog)
    begun = [text for text in said if text.startswith("The worker cannot store")]
    assert len(said) == 2 * len(begun), "each begins and ends"
    assert len(begun) <= 3, "a node that has just started may answer late once more"
    assert "it goes on with the other partitions" not in caplog.text


def test_slots_that_no_node_serves_cost_one_wait_for_the_share(
    cluster: ValkeyCluster,
    client: RedisClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py's client sleeps for 0.25 s before and after each command that is answered with CLUSTERDOWN."""
    node, own, others = parts(cluster)
    drain = Drain(client)
    drain.source._count = 100
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    batches = [decode_entries(stream, entries) for stream, entries in drain.source.read()]
    assert len(batches) == PARTITIONS
    with redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5) as one:
        slots = [one.execute_command("CLUSTER KEYSLOT", Keys(each).snapshots) for each in own]
        one.execute_command("CLUSTER DELSLOTS", *slots)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("redis-py waits by itself"))
            known = drain.source.examine(batches)
            assert {number_of(batch) for batch in known} == others
            drain.source.acknowledge(batches, [Outcome((), 0) for _ in batches])
            assert drain.source.forget() == 0
            assert drain.source.read(wait=False) == []
        assert all(stored(client, each) == 1 for each in others)
        for seq in (2, 3):
            for partition in others:
                add(client, partition, seq)
            drain.until(others, seq - 1)
        one.execute_command("CLUSTER ADDSLOTS", *slots)
    cluster.wait_until_whole()
    drain.until(own, 1)
    is_exact(drain, dict.fromkeys(own, 1) | dict.fromkeys(others, 3))
    lines = [each.getMessage() for each in caplog.records if each.name == "riskstream.outages"]
    assert len(lines) == 2, lines


def test_a_cluster_that_is_down_is_the_partitions_outage(
    cluster: ValkeyCluster, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """All nodes answer, and all say that the cluster is down, as no node has one of the slots."""
    node, *_ = parts(cluster)
    drain = Drain(client)
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    with contextlib.ExitStack() as stack:
        ones = []
        for each in (*(other for other in cluster.nodes if other is not node), node):
            one = stack.enter_context(redis_client(each.url, answer_timeout_s=5, connect_timeout_s=5))
            one.config_set("cluster-require-full-coverage", "yes")
            stack.callback(one.config_set, "cluster-require-full-coverage", "no")
            ones.append(one)
        slot = one.execute_command("CLUSTER KEYSLOT", Keys(0).snapshots)

        def is_down() -> bool:
            for each in ones:  # again and again, as one that still has it tells the others
                with contextlib.suppress(ResponseError):
                    each.execute_command("CLUSTER DELSLOTS", slot)
            drain.source.read(wait=True)
            drain.source.rewind()
            return all(each in drain.source._outages for each in range(PARTITIONS))

        with caplog.at_level(logging.WARNING):
            wait_until(is_down, 10, "the cluster to be down")
            assert drain.source.read(wait=True) == []
            assert drain.source._outages.next_due_s() <= LONGEST_WAIT_S
            one.execute_command("CLUSTER ADDSLOTS", slot)
            cluster.wait_until_whole()
            drain.until(set(range(PARTITIONS)), 1)
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 1))
    lines = [each.getMessage() for each in caplog.records if each.name == "riskstream.outages"]
    assert len(lines) == 2, lines


def test_the_whole_cluster_away_is_the_whole_source_away(cluster: ValkeyCluster, client: RedisClient) -> None:
    drain = Drain(client)
    for partition in range(PARTITIONS):
        add(client, partition, 1)
    for node in cluster.nodes:
        node.kill()
    try:
        with pytest.raises(SourceUnavailable):
            drain.read()
    finally:
        for node in cluster.nodes:
            node.start()
    cluster.wait_until_whole()
    drain.source.rewind()
    drain.until(set(range(PARTITIONS)), 1)
    is_exact(drain, dict.fromkeys(range(PARTITIONS), 1))


def test_a_node_that_is_away_leaves_the_agreement_and_the_shares_as_they_are(
    cluster: ValkeyCluster, client: RedisClient
) -> None:
    """Else each look of each worker would agree with Postgres anew, and cut the shares anew."""
    node, own, _ = parts(cluster)
    more = next(each for each in range(PARTITIONS, 256) if cluster.master_of(Keys(each).snapshots) is node)
    known = partitions.Known()
    for partition in range(PARTITIONS):
        client.set(Keys(partition).partitioning, f"1:{PARTITIONS}")
    client.set(Keys(more).partitioning, f"1:{PARTITIONS}")
    client.set(Keys(more).admitted, "held more once")
    assert known.look(client, NO_NAMESPACE, 3).uniform
    assert len(known.numbers(NO_NAMESPACE, 3)) == 1 + more
    node.kill()
    try:
        seen = known.look(client, NO_NAMESPACE, 3)
        assert seen.uniform
        assert seen.away >= {*own, more}
        assert len(known.numbers(NO_NAMESPACE, 3)) == 1 + more
    finally:
        node.start()
    cluster.wait_until_whole()
    client.set(Keys(min(own)).partitioning, "another")
    assert not known.look(client, NO_NAMESPACE, 3).uniform


def test_a_node_that_is_away_is_no_stall_before_a_minute(
    cluster: ValkeyCluster, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it a key that holds something else: nothing is to be deleted."""
    node, own, _ = parts(cluster)
    clock = FakeClock()
    watch = progress.Watch(client, range(PARTITIONS), clock=clock)
    served = exporter.application(client, client, exporter.Sources(PARTITIONS))

    def get(path: str) -> tuple[str, str]:
        status: list[str] = []
        body = b"".join(
            served({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, lambda said, *_: status.append(said))
        )
        return status[0], body.decode()

    node.kill()
    try:
        with caplog.at_level(logging.WARNING):
            assert watch.report() == []
            clock.now += 59
            assert watch.report() == []
            for _ in range(2):
                _, metrics = get("/metrics")
                assert "has not been drained" not in get("/readyz")[1]
        assert 'risk_up{server="redis"} 1\n' in metrics
        assert "risk_unreadable_fields 0\n" in metrics
        for partition in range(PARTITIONS):
            label = f'risk_stream_length{{partition="{partition}"}}'
            assert (label in metrics) == (partition not in own)
        [line] = caplog.messages
        assert line.startswith("The exporter gets no answer from the nodes of Redis that have the partitions")
        clock.now += 2
        assert {each.partition for each in watch.report()} == own
        assert "its node of the Redis Cluster does not answer (" in caplog.messages[-1]
    finally:
        node.start()
    cluster.wait_until_whole()
    get("/metrics")
    assert caplog.messages[-1] == "The exporter gets answers for all partitions again"
    assert watch.report() == []


def test_each_server_says_by_itself_whether_it_takes_writes(
    cluster: ValkeyCluster, client: RedisClient
) -> None:
    everything = [Keys(partition) for partition in range(PARTITIONS)]
    found = server.look(client, everything)
    assert len(found) == len({each.address for each in found}) == len(cluster.nodes)
    assert sorted(p for each in found for p in each.partitions) == list(range(PARTITIONS))
    assert server.refusals(found) == []
    [first] = [node for node in cluster.nodes if f":{node.port}" in found[0].address]
    with redis_client(first.url, answer_timeout_s=5, connect_timeout_s=5) as admin:
        admin.config_set("maxmemory", 1)
        again = server.look(client, everything)
        admin.config_set("maxmemory", 0)
    assert [bool(each.refusal) for each in again] == [True] + [False] * (len(found) - 1)
    assert not again[0].away
    first.pause()
    try:
        again = server.look(client, everything)
    finally:
        first.resume()
    assert [each.away for each in again] == [True] + [False] * (len(found) - 1)
    assert again[0].partitions == found[0].partitions
    wait_until(lambda: server.refusals(server.look(client, everything)) == [])


def test_a_client_that_is_made_while_a_node_is_away_asks_the_others(
    client: Any, cluster: ValkeyCluster
) -> None:
    """redis-py asks something of one node, always the same."""
    partitions.look(client, NO_NAMESPACE, PARTITIONS)
    name = client.get_default_node().name
    node = next(each for each in cluster.nodes if name == f"127.0.0.1:{each.port}")
    node.kill()
    try:
        with redis_client(cluster.url, answer_timeout_s=5, connect_timeout_s=5) as connected:
            made: Any = connected
            others = {f"127.0.0.1:{each.port}" for each in cluster.nodes if each is not node}
            assert {each.name for each in made.get_nodes()} >= others
    finally:
        node.start()
        wait_until(lambda: all_answer(client), 20, "the cluster as it was")


@pytest.mark.system
def test_a_follower_sees_every_node_and_goes_on_without_one(client: Any, cluster: ValkeyCluster) -> None:
    node = cluster.nodes[0]
    away = of(node, cluster)
    others = set(range(PARTITIONS)) - away
    seqs: Counter[int] = Counter()
    seen: set[int] = set()
    outages: list[tuple[bool, int]] = []

    def sees(partitions: set[int]) -> bool:
        """After another entry in each, which is taken off at once."""
        for partition in partitions:
            seqs[partition] += 1
            with contextlib.suppress(*REDIS_ERRORS):
                added = client.xadd(
                    Keys(partition).snapshots, {b"s": payload(f"t{partition}", seqs[partition])}
                )
                client.xdel(Keys(partition).snapshots, added)
        answer = follower.take(0.01)
        if isinstance(answer, Outage):
            outages.extend((bool(answer.error), partition) for partition in answer.partitions)
        else:
            seen.update(each.partition for each in answer)
        return partitions <= seen

    with Follower(cluster.url, NO_NAMESPACE, PARTITIONS) as follower:
        wait_until(lambda: sees({*away, *others}), 20, "all partitions")
        node.kill()
        wait_until(lambda: sees(others) and away <= {each for bad, each in outages if bad}, 20, "an outage")
        seen.clear()
        wait_until(lambda: sees(others), 20, "the other partitions")
        node.start()
        wait_until(lambda: sees({*away, *others}), 20, "all partitions again")
        assert away <= {each for bad, each in outages if not bad}
        assert others.isdisjoint(each for _, each in outages)


@pytest.mark.system
def test_several_namespaces_on_a_cluster(
    cluster: ValkeyCluster, client: RedisClient, database_url: str
) -> None:
    """Partitions of one number are on one node, whichever namespace they are of."""
    environ = {"REDIS_URL": cluster.url, "RQ_REDIS_URL": "redis://127.0.0.1:1", "POSTGRES_URL": database_url}
    desks = Desks(environ, "desk1", "desk2", partitions=PARTITIONS)
    traders = [f"t{number}" for number in range(2 * PARTITIONS)]
    desks.push("desk1", *traders)
    assert desks.drain() == len(traders)
    desks.push("desk2", *traders, "own")
    assert desks.drain() == 1 + len(traders)
    desks.compare()
    found = desks.verify()
    assert (found["stored"], found["dead"], found["reconciled"]) == (1 + len(traders), len(traders), True)
