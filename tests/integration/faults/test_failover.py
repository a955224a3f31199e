"""A failover of Redis behind a forwarder that moves new connections only: those to the old master must go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from risk_devkit.embedded import EmbeddedValkey
from risk_producer import RiskProducer
from risk_producer.transport.connect import redis_client
from tests.conftest import MakeValkey
from tests.support.bounds import Bound
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.proxy import Proxy
from tests.support.wait import slowness, wait_until


class Pair:
    """A master and its replica behind one address."""

    def __init__(self, make_valkey: MakeValkey, proxy: Proxy, master: EmbeddedValkey) -> None:
        self.master = master
        self.replica = make_valkey(replicaof=f"127.0.0.1 {master.port}")
        self.proxy = proxy

    def fail_over(self) -> None:
        with redis.Redis.from_url(self.master.url) as old, redis.Redis.from_url(self.replica.url) as new:
            wait_until(lambda: old.wait(1, 100) == 1, what="the replica to have everything")
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", str(self.replica.port))
        self.proxy.lead_to(self.replica.url)


@pytest.fixture
def pair(make_valkey: MakeValkey) -> Iterator[Pair]:
    master = make_valkey()
    with Proxy(master.url) as proxy:
        made = Pair(make_valkey, proxy, master)
        with redis.Redis.from_url(made.replica.url) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="replication")
        yield made


def test_producer_and_worker_are_back_without_a_restart(
    pair: Pair, database_url: str, tmp_path: Path, bound: Bound
) -> None:
    """Case: both stay connected to the old master, which has become a replica."""

    def stored() -> int:
        with psycopg.connect(database_url) as db:
            row = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
            assert row is not None
            return int(row[0])

    environ = {"REDIS_URL": pair.proxy.url, "POSTGRES_URL": database_url}
    with (
        ChildProcess(tmp_path / "worker.log", environ) as worker,
        RiskProducer(pair.proxy.url) as producer,
    ):
        for number in range(20):
            producer.push(snapshot("t1", number), timeout=30)
        wait_until(lambda: stored() == 20, 30, "the worker to store")
        pair.fail_over()
        replaced = time.monotonic()
        for number in range(20):
            assert producer.save(snapshot("t2", number))
        assert producer.flush(5 * slowness()), producer.health()
        wait_until(lambda: stored() == 40, 5, "the worker to store again")
        bound("a master of Redis behind one name or proxy is replaced", time.monotonic() - replaced)
        assert producer.health().backend == "postgres"
        assert worker.running


@pytest.mark.parametrize("call", ["command", "pipeline", "transaction", "script", "blocking"])
def test_every_kind_of_call_leaves_the_old_master(pair: Pair, call: str) -> None:
    with redis_client(pair.proxy.url, answer_timeout_s=5, connect_timeout_s=5) as client:
        script = client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")

        def write() -> None:
            if call == "command":
                client.set("key", 1)
            elif call == "script":
                script(keys=["key"], args=[1])
            elif call == "blocking":
                client.blmove("none", "other", timeout=1)
            else:
                with client.pipeline(transaction=call == "transaction") as pipeline:
                    pipeline.set("key", 1).set("key", 2).execute()

        write()
        pair.fail_over()
        with pytest.raises(redis.RedisError):
            write()
        write()
