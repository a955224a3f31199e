"""A producer on a Redis Cluster of six nodes: with all of them, without one master, and without any."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from risk_devkit.groups import ValkeyCluster
from risk_producer import RiskProducer, StateUnknown, StreamUnavailable
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace, partition_of
from risk_producer.transport.connect import RedisClient, redis_client
from risk_producer.transport.servers import beside, server_of
from risk_worker.cli import cli
from risk_worker.monitor.exporter import Sources, application
from risk_worker.stream import partitions, progress, source
from risk_worker.stream.bindings import Bindings
from tests.support.bounds import Bound
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.producers import OnLoop, Producer, Threaded
from tests.support.servers import server_folder
from tests.support.steady import Steady, traders_by_partition
from tests.support.wait import wait_until

PARTITIONS = 16
NODE_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyCluster]:
    """For tests that harm no node."""
    with server_folder() as folder, ValkeyCluster(folder) as running:
        yield running


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    """For tests that kill nodes."""
    with server_folder() as folder:
        timeout_ms = int(NODE_TIMEOUT_S * 1000)
        with ValkeyCluster(folder, node_timeout_ms=timeout_ms) as running:
            yield running


def client_of(cluster: ValkeyCluster) -> RedisClient:
    return redis_client(cluster.url, answer_timeout_s=5, connect_timeout_s=5, retries=3)


@pytest.fixture
def client(shared: ValkeyCluster) -> Iterator[RedisClient]:
    with client_of(shared) as connected:
        for partition in range(PARTITIONS):
            keys = Keys(partition)
            for key in (keys.snapshots, keys.latest, keys.floors, keys.partitioning):
                connected.delete(key)
        yield connected


@pytest.fixture(params=["threaded", "asyncio"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def producer_on(cluster: ValkeyCluster, flavour: str, replicas: int = 0) -> Any:
    options: dict[str, Any] = {
        "redis_url": cluster.url,
        "partitions": PARTITIONS,
        "buffer_size": 20_000,
        "replicas": replicas,
    }
    return Threaded(**options) if flavour == "threaded" else OnLoop(**options)


def end(producer: Any) -> None:
    producer.close(0.0)
    if isinstance(producer, OnLoop):
        producer.stop()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "riskstream.producer"]


def mark_restored(client: RedisClient) -> None:
    """As a worker does that has compared each partition with Postgres."""
    for partition in range(PARTITIONS):
        floors = Keys(partition).floors
        server: Any = client.info("server", **beside(client, floors))
        client.hset(floors, "", server["run_id"])


def test_what_is_accepted_is_in_the_streams_and_is_loaded_again(
    shared: ValkeyCluster, client: RedisClient, flavour: str
) -> None:
    traders = traders_by_partition(PARTITIONS)
    producer = producer_on(shared, flavour)
    try:
        with Steady(producer, partitions=PARTITIONS) as load:
            wait_until(lambda: load.total >= 500, 30, "500 snapshots")
        assert producer.flush(30), producer.health()
        assert load.missing(client) == 0
        assert producer.health().backend == "postgres"
        for partition, name in traders.items():
            producer.push(snapshot(name, partition), timeout=30)
        mark_restored(client)
        with RiskProducer(shared.url, partitions=PARTITIONS) as other:
            for partition, name in traders.items():
                state = other.load(name)
                assert state is not None
                assert (state.snapshot.daily_pnl, state.source) == (partition, "redis")
                assert other.load(f"new-{name}") is None
    finally:
        end(producer)


def test_what_a_worker_reads_it_reads_of_a_cluster_too(shared: ValkeyCluster, client: RedisClient) -> None:
    traders = traders_by_partition(PARTITIONS)
    with RiskProducer(shared.url, partitions=PARTITIONS) as producer:
        for name in traders.values():
            producer.push(snapshot(name), timeout=30)
    with source.connect(shared.url) as connected:
        for partition in range(PARTITIONS):
            entries: Any = connected.xrange(Keys(partition).snapshots)
            assert len(entries) == 1
        connected.set_response_callback("XREAD", lambda answer, **_: answer)
        [(name, [[_, fields]])] = cast("Any", connected.xread({Keys(3).snapshots: "0-0"}, block=100)).items()
        assert (name, fields[0]) == (Keys(3).snapshots.encode(), b"s")
        assert [each.length for each in progress.read(connected, range(PARTITIONS))] == [1] * PARTITIONS
        seen = partitions.look(connected, NO_NAMESPACE, 4)
        assert (seen.width, seen.entries) == (PARTITIONS, dict.fromkeys(range(PARTITIONS), 1))
        assert len({server_of(connected, Keys(each).snapshots) for each in range(PARTITIONS)}) == 3
        status: list[str] = []
        served = application(connected, connected, Sources(PARTITIONS))
        body = b"".join(served({"PATH_INFO": "/readyz"}, lambda said, *_: status.append(said)))
        assert status == ["503 Service Unavailable"]
        assert body.decode().splitlines() == [
            "No worker is alive: start one (riskstream worker), or look at Postgres, which it waits for."
        ]


def test_a_closed_client_leaves_no_connection(shared: ValkeyCluster) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()
    before = descriptors()
    for _ in range(3):
        with client_of(shared) as made:
            assert [made.xlen(Keys(partition).snapshots) for partition in range(PARTITIONS)]
        assert descriptors() <= before


def test_scripts_that_all_nodes_forgot_are_no_outage(
    shared: ValkeyCluster, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        RiskProducer(shared.url, partitions=PARTITIONS) as producer,
    ):
        for _ in range(3):
            client.script_flush()
            for name in traders_by_partition(PARTITIONS).values():
                producer.push(snapshot(name), timeout=30)
    assert lines(caplog) == []


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_slot_that_moves_under_load_loses_nothing(
    shared: ValkeyCluster,
    client: RedisClient,
    flavour: str,
    replicas: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    producer = producer_on(shared, flavour, replicas)
    try:
        with caplog.at_level(logging.WARNING), Steady(producer, partitions=PARTITIONS) as load:
            wait_until(lambda: load.total >= 200, 30, "200 snapshots")
            for partition in range(3):
                key = Keys(partition).snapshots
                source = shared.master_of(key)
                other = next(
                    node
                    for node in map(shared.master_of, (Keys(p).snapshots for p in range(PARTITIONS)))
                    if node is not source
                )
                shared.move_slot(key, other)
                before = load.total
                wait_until(lambda: load.total >= before + 100, 30, "100 more")  # noqa: B023
        assert producer.flush(30), producer.health()
        assert load.missing(client) == 0
        assert load.rejected == 0
        with capsys.disabled():
            print(f"\n{flavour}, {replicas} replicas: {load.total} accepted, {len(lines(caplog))} log lines")
        assert len(lines(caplog)) <= 4
    finally:
        end(producer)


def test_with_replicas_each_node_answers_for_its_own(shared: ValkeyCluster, client: RedisClient) -> None:
    """A replica that is frozen holds up the partitions of its master, whatever connection asks."""
    traders = traders_by_partition(PARTITIONS)
    master = shared.master_of(Keys(0).snapshots)
    own = {each for each in range(PARTITIONS) if shared.master_of(Keys(each).snapshots) is master}
    with redis_client(master.url, answer_timeout_s=5, connect_timeout_s=5) as one:
        port = int(cast("Any", one.info("replication"))["slave0"]["port"])
    replica = next(node for node in shared.nodes if node.port == port)
    with RiskProducer(shared.url, partitions=PARTITIONS, replicas=1) as producer:
        for name in traders.values():
            producer.push(snapshot(name, 1), timeout=30)
        replica.pause()
        try:
            for partition, name in traders.items():
                if partition in own:
                    producer.save(snapshot(name, 2))
            wait_until(lambda: set(producer.health().away) == own, 30, "its partitions to be away")
            assert "0 of 1 replicas have confirmed" in str(producer.health().reason)
            for partition, name in traders.items():
                if partition not in own:
                    producer.push(snapshot(name, 2), timeout=30)
            with (
                RiskProducer(shared.url, partitions=PARTITIONS, replicas=1) as other,
                pytest.raises(StreamUnavailable, match="0 of 1 replicas have confirmed"),
            ):
                other.push(snapshot(traders[0], 3), timeout=3)
            assert producer.health().accepted == 2 * PARTITIONS - len(own)
        finally:
            replica.resume()
        assert producer.flush(30), producer.health()
    for partition in range(PARTITIONS):
        if partition:
            assert client.xlen(Keys(partition).snapshots) == 2


def test_children_have_connections_of_their_own(shared: ValkeyCluster, client: RedisClient) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pool", shared.url, "fork", "processes"],
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert client.xlen(Keys(0).snapshots) == 200


def test_a_url_of_one_node_says_what_to_write(shared: ValkeyCluster, client: RedisClient) -> None:
    """Two of three partitions are on other nodes."""
    url = shared.url.replace("redis+cluster://", "redis://").partition(",")[0]
    with RiskProducer(url, partitions=PARTITIONS) as producer:
        for name in traders_by_partition(PARTITIONS).values():
            producer.save(snapshot(name))
        # Partition 0, in whose node the number of partitions is agreed on, may be on another one too.
        wait_until(lambda: producer.health().reason, 30, "what is elsewhere to be refused")
        reason = producer.health().reason
        assert reason is not None
        assert "this is a node of a Redis Cluster (MOVED" in reason
        assert "write redis+cluster://" in reason
        producer.close(0.0)


def killed(cluster: ValkeyCluster, producer: Any, load: Steady) -> tuple[float, float]:
    """Kill the master of partition 0. Returns the longest stall of its partitions, and of the others."""
    master = cluster.master_of(Keys(0).snapshots)
    own = {each for each in range(PARTITIONS) if cluster.master_of(Keys(each).snapshots) is master}
    load.forget_stalls()
    master.kill()
    for node in cluster.nodes:  # nor may a script that has to be sent again need the node that is away
        if node.running:
            with redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5) as one:
                one.script_flush()
    wait_until(lambda: cluster.master_of(Keys(0).snapshots) is not master, 30, "a failover")
    cluster.wait_until_whole()
    wait_until(lambda: producer.health().backend == "postgres", 30, "the producer to be back")
    before = load.total
    wait_until(lambda: load.total >= before + 200, 30, "200 more")
    stalls = dict(load.stalls)
    master.start()
    cluster.wait_until_whole()
    others = set(range(PARTITIONS)) - own
    assert own
    assert others
    return max(stalls[each] for each in own), max(stalls[each] for each in others)


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_killed_master_loses_nothing_and_holds_up_its_own_partitions_alone(
    cluster: ValkeyCluster,
    flavour: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    bound: Bound,
) -> None:
    producer = producer_on(cluster, flavour)
    try:
        with (
            caplog.at_level(logging.WARNING),
            Steady(producer, partitions=PARTITIONS) as load,
        ):
            wait_until(lambda: load.total >= 500, 30, "500 snapshots")
            stalls = [killed(cluster, producer, load) for _ in range(2)]
        assert producer.flush(30), producer.health()
        with client_of(cluster) as anew:
            missing = load.missing(anew)
    finally:
        end(producer)
    with capsys.disabled():
        print(f"\n{flavour}: {load.total} accepted, {missing} missing")
        for own, others in stalls:
            print(f"stalls: own partitions {own:.2f} s, others {others:.2f} s")
    assert missing == 0
    assert load.rejected == 0
    assert len(lines(caplog)) <= 4
    for own, others in stalls:
        bound("a master of a cluster is replaced: its own partitions", own)
        bound("a master of a cluster is killed: the partitions of the others", others)
        assert others < 0.8 * own


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_worker_stores_what_is_on_a_cluster(
    cluster: ValkeyCluster, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    environ = {
        "REDIS_URL": cluster.url,
        "RQ_REDIS_URL": redis_url,
        "POSTGRES_URL": database_url,
        "RISK_PARTITIONS": "4",
    }
    traders = traders_by_partition(4)
    with (
        ChildProcess(tmp_path / "worker.log", environ) as worker,
        RiskProducer(cluster.url, partitions=4) as producer,
    ):
        for _ in range(3):
            for name in traders.values():
                producer.push(snapshot(name), timeout=30)

        def verified() -> bool:
            done = CliRunner().invoke(cli, ["verify"], env=environ)
            return done.exit_code == 0 and "stored                    12" in done.output

        wait_until(verified, 60, "the worker to store, and verify to reconcile")
        for name in traders.values():  # what was restored from Postgres is believed
            assert producer.load(name) is not None
            assert producer.load(f"new-{name}") is None
        assert worker.stop() == 0
        assert "ERROR" not in worker.log


@pytest.mark.system
@pytest.mark.timeout(120)
def test_the_whole_cluster_away_is_one_outage(
    cluster: ValkeyCluster, flavour: str, caplog: pytest.LogCaptureFixture
) -> None:
    producer = producer_on(cluster, flavour)
    try:
        with (
            client_of(cluster) as client,
            caplog.at_level(logging.WARNING),
            Steady(producer, partitions=PARTITIONS) as load,
        ):
            wait_until(lambda: load.total >= 500, 30, "500 snapshots")
            used = len({partition_of(name, PARTITIONS) for name in load.accepted})
            for node in cluster.nodes:
                node.kill()
            gone = time.monotonic()
            wait_until(lambda: len(producer.health().away) == used, 30, "the producer to see it")
            assert producer.health().backend == "memory"
            with pytest.raises(StateUnknown):
                producer.load("somebody")
            wait_until(lambda: time.monotonic() >= gone + 6, 30, "6 s")
            for node in cluster.nodes:
                node.start()
            cluster.wait_until_whole()
            wait_until(lambda: producer.health().backend == "postgres", 30, "the producer to be back")
            assert producer.flush(30)
        assert producer.flush(30)
        assert load.missing(client) == 0
        assert len(lines(caplog)) == 2, lines(caplog)
    finally:
        end(producer)


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_frozen_master_leaves_time_to_the_others(
    cluster: ValkeyCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = cast("Producer", producer_on(cluster, "threaded"))
    try:
        with client_of(cluster) as client, Steady(producer, partitions=PARTITIONS) as load:
            wait_until(lambda: load.total >= 500, 30, "500 snapshots")
            master = cluster.master_of(Keys(0).snapshots)
            master.pause()
            wait_until(lambda: cluster.master_of(Keys(1).snapshots) is not master, 30, "a failover")
            wait_until(lambda: producer.health().backend == "postgres", 60, "the producer to be back")
            assert producer.flush(60)
            master.resume()
            cluster.wait_until_whole()
            load.stop()
            assert producer.flush(60)
            missing = load.missing(client)
    finally:
        end(producer)
    with capsys.disabled():
        print(f"\n{load.total} accepted, {missing} missing")
    assert missing == 0


def test_a_namespace_leaves_each_partition_on_its_node(shared: ValkeyCluster, client: RedisClient) -> None:
    space, traders = Keyspace("desk1"), traders_by_partition(PARTITIONS)
    with RiskProducer(shared.url, namespace="desk1", partitions=PARTITIONS) as producer:
        for trader_id in traders.values():
            producer.push(snapshot(trader_id))
    partitions = [space.keys(number) for number in range(PARTITIONS)]
    for keys in partitions:
        assert server_of(client, keys.snapshots) == server_of(client, Keys(keys.partition).snapshots)
        assert client.xlen(Keys(keys.partition).snapshots) == 0
    own, other = (Bindings(client, identity) for identity in ("own", "other"))
    own.claim(partitions)

    def streams_read(bindings: Bindings) -> set[str]:
        reader = source.StreamSource(
            client, range(PARTITIONS), keyspace=space, bindings=bindings, block_s=0.1
        )
        reads = [reader.read(wait=True) for _ in range(PARTITIONS)]
        return {stream for pieces in reads for stream, _ in pieces}

    assert streams_read(own) == {keys.snapshots for keys in partitions}
    client.set(partitions[3].database, "other")
    assert streams_read(own) == {keys.snapshots for keys in partitions} - {partitions[3].snapshots}
    assert streams_read(other) == {partitions[3].snapshots}


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_frozen_master_without_a_replica_takes_its_own_partitions_along(
    flavour: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], bound: Bound
) -> None:
    with server_folder() as folder, ValkeyCluster(folder, replicas=0) as cluster:
        producer = producer_on(cluster, flavour)
        try:
            with (
                caplog.at_level(logging.WARNING),
                client_of(cluster) as client,
                Steady(producer, partitions=PARTITIONS) as load,
            ):
                wait_until(lambda: load.total >= 500, 30, "500 snapshots")
                master = cluster.master_of(Keys(0).snapshots)
                own = {p for p in range(PARTITIONS) if cluster.master_of(Keys(p).snapshots) is master}
                load.forget_stalls()
                master.pause()
                thawed = time.monotonic() + 12
                wait_until(lambda: time.monotonic() > thawed, 12, "12 s")
                others = max(stall for p, stall in load.stalls.items() if p not in own)
                master.resume()
                wait_until(lambda: producer.health().backend == "postgres", 60, "the producer to be back")
                load.stop()
                assert producer.flush(60)
                missing = load.missing(client)
        finally:
            end(producer)
    with capsys.disabled():
        print(f"\n{flavour}: {load.total} accepted, {missing} missing; others {others:.2f} s")
        print(f"{len(lines(caplog))} log lines")
    assert (missing, load.rejected) == (0, 0)
    assert len(lines(caplog)) == 2
    bound("a master of a cluster says nothing: the partitions of the others", others)


@pytest.mark.system
@pytest.mark.timeout(180)
def test_many_producers_ask_seldom_where_the_nodes_are(
    cluster: ValkeyCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a master is replaced: none of them asks, or connects, in a loop."""
    master = cluster.master_of(Keys(0).snapshots)
    own = {each for each in range(PARTITIONS) if cluster.master_of(Keys(each).snapshots) is master}

    def counts() -> tuple[int, int]:
        """CLUSTER SLOTS, and connections, of the nodes that stay."""
        slots = connects = 0
        for node in cluster.nodes:
            if node is not master:
                with redis_client(node.url, answer_timeout_s=5, connect_timeout_s=5) as one:
                    info: Any = one.info("everything")
                slots += info.get("cmdstat_cluster|slots", {"calls": 0})["calls"]
                connects += info["total_connections_received"]
        return slots, connects

    def traders_of(number: int) -> list[str]:
        """One in a partition of the master, and one elsewhere."""
        names = [f"{number}-{each}" for each in range(100)]
        there = [partition_of(name, PARTITIONS) in own for name in names]
        return [names[there.index(True)], names[there.index(False)]]

    registry = CollectorRegistry()
    producers = {
        RiskProducer(cluster.url, partitions=PARTITIONS, registry=registry): traders_of(number)
        for number in range(40)
    }
    seen: set[RiskProducer] = set()
    due = 0.0

    def trade() -> None:
        """Some 800 snapshots a second in all."""
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + 0.1
            for producer, names in producers.items():
                for name in names:
                    producer.save(snapshot(name))

    def have_all_seen_it() -> bool:
        trade()
        seen.update(producer for producer in producers if producer.health().away)
        return len(seen) == len(producers)

    def are_all_back() -> bool:
        trade()
        return not any(producer.health().away for producer in producers)

    try:
        trade()
        assert all(producer.flush(60) for producer in producers)
        before, killed = counts(), time.monotonic()
        master.kill()
        wait_until(have_all_seen_it, 30, "all to see it")
        wait_until(are_all_back, 30, "all to be back")
        took_s = time.monotonic() - killed
        rates = [(now - then) / len(producers) / took_s for now, then in zip(counts(), before, strict=True)]
    finally:
        for producer in producers:
            producer.close(0.0)
    with capsys.disabled():
        slots, connects = rates
        print(
            f"\nin {took_s:.1f} s, a second and producer: CLUSTER SLOTS {slots:.2f}, connects {connects:.2f}"
        )
    assert max(rates) < 5
