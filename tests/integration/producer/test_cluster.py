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

from risk_devkit.groups import ValkeyCluster
from risk_producer import RiskProducer, StateUnknown
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.transport.connect import RedisClient, redis_client
from risk_producer.transport.servers import beside, server_of
from risk_worker.cli import cli
from risk_worker.monitor.exporter import application
from risk_worker.stream import progress, source
from risk_worker.stream.partitions import unserved
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.producers import OnLoop, Producer, Threaded
from tests.support.servers import server_folder
from tests.support.steady import Steady, traders_by_partition
from tests.support.wait import slowness, wait_until

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
            for key in (Keys(partition).snapshots, Keys(partition).latest, Keys(partition).floors):
                connected.delete(key)
        yield connected


@pytest.fixture(params=["threaded", "asyncio"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def producer_on(cluster: ValkeyCluster, flavour: str) -> Any:
    options: dict[str, Any] = {"redis_url": cluster.url, "partitions": PARTITIONS, "buffer_size": 20_000}
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
        assert unserved(connected, 4).keys() == set(range(4, PARTITIONS))
        assert len({server_of(connected, Keys(each).snapshots) for each in range(PARTITIONS)}) == 3
        status: list[str] = []
        served = application(connected, PARTITIONS, connected)
        body = b"".join(served({"PATH_INFO": "/readyz"}, lambda said, *_: status.append(said)))
        assert (status, body) == (["200 OK"], b"ready\n")


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


def test_a_slot_that_moves_under_load_loses_nothing(
    shared: ValkeyCluster, client: RedisClient, flavour: str, caplog: pytest.LogCaptureFixture
) -> None:
    producer = producer_on(shared, flavour)
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
        assert len(lines(caplog)) <= 4
    finally:
        end(producer)


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


def test_a_url_of_one_node_says_what_to_write(shared: ValkeyCluster) -> None:
    """Two of three partitions are on other nodes."""
    url = shared.url.replace("redis+cluster://", "redis://").partition(",")[0]
    with RiskProducer(url, partitions=PARTITIONS) as producer:
        for name in traders_by_partition(PARTITIONS).values():
            producer.save(snapshot(name))
        wait_until(lambda: len(producer.health().away) > 4, 30, "the other partitions to be refused")
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
    cluster: ValkeyCluster, flavour: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
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
        assert own < NODE_TIMEOUT_S + 2 * slowness()
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
@pytest.mark.timeout(120)
def test_a_frozen_master_leaves_time_to_the_others(cluster: ValkeyCluster) -> None:
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
        assert producer.flush(60)
        assert load.missing(client) == 0
    finally:
        end(producer)
