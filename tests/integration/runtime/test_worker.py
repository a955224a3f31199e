"""Worker processes against the real servers: what starts, takes over, stops and comes back."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rq import Queue

from risk_producer.contract.keys import Keys
from risk_worker.runtime.jobs import DrainJob
from risk_worker.stream.workers import QUEUE
from tests.support.bounds import Bound
from tests.support.factory import payload
from tests.support.process import ChildProcess
from tests.support.proxy import Proxy
from tests.support.redis import drains
from tests.support.wait import wait_until

KEYS = Keys(0)
RQ = str(Path(sys.executable).with_name("rq"))
SOON_TIRED = """
from risk_worker.cli import cli
from risk_worker.database import migrations
migrations.WAIT_TIMEOUT_S = 0.2
cli(["worker"])
"""
"""A worker that gives one look for the database 0.2 s, and not a minute."""
DRAIN_WORKER = "risk_worker.runtime.worker.DrainWorker"


@pytest.fixture
def new_worker(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., ChildProcess]]:
    started: list[ChildProcess] = []

    def start(*command: str, **more: str) -> ChildProcess:
        worker = ChildProcess(tmp_path / f"worker-{len(started)}.log", {**environ, **more}, command).start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.__exit__(None, None, None)


class Trader:
    """Adds snapshots as a producer does, one stream entry each."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.seq = 0

    def reports(self, count: int) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for _ in range(count):
            self.seq += 1
            pipeline.xadd(KEYS.snapshots, {b"s": payload("t", self.seq)})
        pipeline.execute()


@pytest.fixture
def trader(client: Any) -> Trader:
    return Trader(client)


@pytest.fixture
def stored(database_url: str) -> Callable[[], tuple[int, int, int]]:
    def count() -> tuple[int, int, int]:
        """(rows, different snapshots, seq of the state)"""
        with psycopg.connect(database_url) as db:
            row = db.execute(
                "SELECT count(*), count(DISTINCT (trader_id, epoch, seq)),"
                " (SELECT max(seq) FROM risk_state) FROM risk_state_history"
            ).fetchone()
        assert row is not None
        return (row[0], row[1], row[2] or 0)

    return count


def listens(worker: ChildProcess) -> bool:
    return "The worker is ready" in worker.log


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "risk_worker", "worker"),
        (RQ, "worker", "-w", DRAIN_WORKER, QUEUE),
        (RQ, "worker-pool", "-w", DRAIN_WORKER, QUEUE, "-n", "2"),
    ],
    ids=["riskstream worker", "rq worker", "rq worker-pool"],
)
def test_every_way_to_start_drains_and_stops(
    command: tuple[str, ...],
    new_worker: Callable[..., ChildProcess],
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
) -> None:
    trader.reports(100)
    worker = new_worker(*command, RISK_BATCHSIZE="7")
    wait_until(lambda: stored() == (100, 100, 100), 20, "the backlog is stored")
    trader.reports(1)
    wait_until(lambda: stored() == (101, 101, 101), 5, "a new snapshot is stored")
    assert worker.stop() == 0
    workers = 2 if "worker-pool" in command else 1
    assert worker.log.count("RISK_BATCHSIZE is no setting; do you mean RISK_BATCH_SIZE?") == workers


def test_a_worker_that_starts_without_postgres_waits_for_as_long_as_it_takes(
    new_worker: Callable[..., ChildProcess],
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
    database_url: str,
) -> None:
    trader.reports(1)
    with Proxy(database_url) as proxy:
        proxy.refusing = True
        worker = new_worker(sys.executable, "-c", SOON_TIRED, POSTGRES_URL=proxy.url)
        wait_until(lambda: "The worker waits for Postgres: the database " in worker.log, 20, "it has tried")
        proxy.heal()
        wait_until(lambda: stored() == (1, 1, 1), 20, "it stores")
        assert worker.stop() == 0


def test_a_worker_that_loses_postgres_amid_its_start_waits_for_it(
    new_worker: Callable[..., ChildProcess],
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
    database_url: str,
) -> None:
    """It looked for migrations, and is about to see what its role may do."""
    trader.reports(1)
    with Proxy(database_url) as proxy:
        proxy.cut_at = b"has_table_privilege(to_regclass(name)"
        worker = new_worker(POSTGRES_URL=proxy.url)
        wait_until(lambda: stored() == (1, 1, 1), 20, "it stores")
        assert proxy.struck.is_set()
        assert worker.log.count("The worker waits for Postgres: the database: ") == 1
        assert worker.stop() == 0


def test_a_worker_migrates_an_empty_database_and_two_do_it_once(
    new_worker: Callable[..., ChildProcess], empty_database_url: str, client: Any
) -> None:
    workers = [new_worker(POSTGRES_URL=empty_database_url) for _ in range(2)]
    wait_until(lambda: drains(client), 30, "a drain is running")
    with psycopg.connect(empty_database_url) as db:
        assert db.execute("SELECT count(*) FROM risk_state").fetchone() == (0,)
    for worker in workers:
        wait_until(partial(listens, worker), 30, "it listens to signals")
        assert worker.stop() == 0


def test_a_restart_after_kill_9_goes_on_at_once(
    new_worker: Callable[..., ChildProcess],
    client: Any,
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
    bound: Bound,
) -> None:
    first = new_worker()
    wait_until(lambda: drains(client), 20, "the first worker drains")
    first.kill()
    trader.reports(10)
    started = time.monotonic()
    restarted = new_worker()
    wait_until(lambda: stored() == (10, 10, 10), 5, "the restarted worker drains")
    bound("a worker is killed and started again on the same host", time.monotonic() - started)
    assert re.search(r"rq:worker:\S+ is dead", restarted.log), (
        "it saw that the process is gone, and waited for no lease"
    )


def test_another_worker_takes_over_after_kill_9(
    new_worker: Callable[..., ChildProcess],
    client: Any,
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
) -> None:
    workers = {w.pid: w for w in (new_worker(), new_worker())}
    wait_until(lambda: drains(client), 20, "one of them drains")
    name = client.hget("rq:job:drain-0", "worker_name").decode()
    holder = workers[int(client.hget(f"rq:worker:{name}", "pid"))]
    holder.kill()
    trader.reports(10)
    wait_until(lambda: stored() == (10, 10, 10), 30, "the other one drains")


def test_a_foreign_job_is_refused_and_the_drain_goes_on(
    new_worker: Callable[..., ChildProcess],
    client: Any,
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
    tmp_path: Path,
) -> None:
    queue = Queue(QUEUE, connection=client, serializer="json", job_class=DrainJob)
    job = queue.enqueue("os.mkdir", str(tmp_path / "owned"))
    new_worker()
    wait_until(lambda: job.get_status() == "failed", 20, "the job is refused")
    assert not (tmp_path / "owned").exists()
    trader.reports(3)
    wait_until(lambda: stored()[0] == 3, 10, "the drain goes on")


def test_a_drain_job_that_somebody_deleted_is_put_back(
    new_worker: Callable[..., ChildProcess],
    client: Any,
    trader: Trader,
    stored: Callable[[], tuple[int, int, int]],
) -> None:
    first = new_worker()
    wait_until(lambda: drains(client), 20, "it drains")
    assert first.stop() == 0
    client.delete("rq:job:drain-0")  # still in the list, but the job is gone
    new_worker()
    trader.reports(3)
    wait_until(lambda: stored()[0] == 3, 20, "it drains again")


def test_without_settings_the_worker_says_what_it_needs(tmp_path: Path) -> None:
    worker = ChildProcess(tmp_path / "log", {}).start()
    assert worker.wait(20) == 2
    assert "POSTGRES_URL is not set" in worker.log
    environ = {"POSTGRES_URL": "postgresql://x@127.0.0.1/x", "REDIS_URI": "redis://127.0.0.1"}
    worker = ChildProcess(tmp_path / "log2", environ).start()
    assert worker.wait(20) == 2
    assert "REDIS_URL is not set" in worker.log
    assert "REDIS_URI is no setting; do you mean REDIS_URL?" in worker.log


def test_several_partitions_share_one_worker(
    new_worker: Callable[..., ChildProcess], client: Any, stored: Callable[[], tuple[int, int, int]]
) -> None:
    new_worker(RISK_PARTITIONS="3")
    for partition in range(3):
        client.xadd(Keys(partition).snapshots, {b"s": payload(f"p{partition}", 1)})
    wait_until(lambda: stored()[0] == 3, 20, "all partitions are drained")
