"""Workers as they run in service, each as if on a host of its own, and how long snapshots wait for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.process import CHECKOUT
from benchmarks.servers import MIGRATED, Databases, Servers, wait
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_worker.stream.workers import registered_workers

_ON_ITS_HOST = """
import sys
from risk_worker.runtime import scheduler
scheduler.process_host = lambda: sys.argv[1]  # so that another worker cannot see whether it runs
from risk_worker.cli import cli
cli(["worker"])
"""


@dataclass(frozen=True)
class Waits:
    """From recorded_at to the beginning of the transaction that stored it, in ms."""

    p50: float
    p99: float
    longest: float


class Site:
    """Servers, a database, and workers. RQ's keys are in the Valkey, wherever the streams are."""

    def __init__(
        self,
        servers: Servers,
        url: str,
        partitions: int,
        nodes: int = 0,
        keyspace: Keyspace = NO_NAMESPACE,
    ) -> None:
        """partitions: of each namespace."""
        self.servers = servers
        self.store = servers.store(nodes)
        self.url = url
        self.partitions = partitions
        self._keyspace = keyspace
        self.settings: Mapping[str, str] = {
            "REDIS_URL": self.store.url,
            "RQ_REDIS_URL": servers.valkey.url,
            "POSTGRES_URL": url,
            "RISK_PARTITIONS": str(partitions),
            "RISK_NAMESPACES": ",".join(keyspace.namespaces),
            "RQ_KEY_PREFIX": keyspace.rq_prefix,
        }
        self._workers: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Of the workers."""
        return [worker.pid for worker in self._workers]

    def start(self) -> None:
        """One more worker."""
        command = [sys.executable, "-c", _ON_ITS_HOST, f"host-{len(self._workers)}"]
        quiet = subprocess.DEVNULL
        environ = {**os.environ, **self.settings}
        self._workers.append(subprocess.Popen(command, env=environ, cwd=CHECKOUT, stdout=quiet, stderr=quiet))

    def kill(self) -> None:
        """The newest worker dies."""
        worker = self._workers.pop()
        worker.kill()
        worker.wait()

    def spoil(self) -> None:
        """The first partition's stream becomes something else."""
        self.store.redis.delete(Keys(0).snapshots)
        self.store.redis.set(Keys(0).snapshots, "x")

    def wait_for_shares(self) -> None:
        """Until each worker has its share."""
        shares = min(len(self._keyspace.numbers(self.partitions)), len(self._workers))
        redis, prefix = self.servers.redis, self._keyspace.rq_prefix
        wait(lambda: len(registered_workers(redis, self._keyspace)) == len(self._workers))
        jobs = [f"{prefix}:job:drain-{each}" for each in range(shares)]
        wait(lambda: all(redis.hget(job, "status") == b"started" for job in jobs))

    def stop(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(20)

    def waits(self, since: str) -> Waits:
        """Of the snapshots recorded since then, by the database's clock (see now())."""
        with psycopg.connect(self.url) as db:
            row = db.execute(
                "SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY"
                " extract(epoch FROM stored_at - recorded_at) * 1000)::float8[] FROM risk_state_history"
                " WHERE recorded_at >= %s",
                (since,),
            ).fetchone()
        assert row is not None
        return Waits(*row[0])

    def now(self) -> str:
        """The time by the database's clock."""
        with psycopg.connect(self.url) as db:
            row = db.execute("SELECT clock_timestamp()::text").fetchone()
        assert row is not None
        return str(row[0])


@contextmanager
def site(
    servers: Servers,
    *,
    partitions: int,
    workers: int,
    nodes: int = 0,
    keyspace: Keyspace = NO_NAMESPACE,
    databases: Databases | None = None,
    template: str = MIGRATED,
) -> Iterator[Site]:
    """A fresh database, an empty Redis, and so many workers that have their shares."""
    servers.empty()
    servers.store(nodes).empty()
    with (databases or servers).database(template) as url, ExitStack() as stack:
        made = Site(servers, url, partitions, nodes, keyspace)
        stack.callback(made.stop)
        for _ in range(workers):
            made.start()
        made.wait_for_shares()
        yield made
