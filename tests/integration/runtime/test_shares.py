"""Worker processes share the partitions: one joins, one dies, one loses Postgres."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rq.exceptions import NoSuchJobError

from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.recovery import repartition
from risk_worker.runtime.jobs import DrainJob
from risk_worker.runtime.scheduler import WORKERS_KEY
from tests.support.bounds import Bound
from tests.support.factory import payload
from tests.support.process import ChildProcess
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

PARTITIONS = 4
SOON_LOST = """
from risk_worker.cli import cli
from risk_worker.database import commit_watch
commit_watch.NAMED_AFTER_S, commit_watch.LOST_AFTER_S = 0.5, 1.0
cli(["worker"])
"""
"""A worker that gives its share away a second after it lost Postgres, and not after ten."""

ON_ITS_HOST = """
import sys
from risk_worker.cli import cli
from risk_worker.stream import workers
workers.process_host = lambda: sys.argv[1]
cli(["worker"])
"""
"""A worker as on a host of its own: the others cannot see whether its process is there."""

NewWorker = Callable[..., ChildProcess]


@pytest.fixture
def new_worker(tmp_path: Path, environ: dict[str, str]) -> Iterator[NewWorker]:
    started: list[ChildProcess] = []

    def start(*command: str, **more: str) -> ChildProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        settings = {**environ, "RISK_PARTITIONS": str(PARTITIONS), **more}
        started.append(ChildProcess(log, settings, command).start())
        return started[-1]

    yield start
    for worker in started:
        worker.__exit__(None, None, None)


class Traders:
    """One a partition."""

    def __init__(self, client: Any, database_url: str) -> None:
        self._client = client
        self._database_url = database_url
        self.sent = 0

    def report(self) -> None:
        self.sent += 1
        for partition in range(PARTITIONS):
            entry = {b"s": payload(f"t{partition}", self.sent)}
            self._client.xadd(Keys(partition).snapshots, entry)

    def are_stored(self) -> bool:
        with psycopg.connect(self._database_url) as db:
            found = db.execute("SELECT count(*), count(DISTINCT (trader_id, seq)) FROM risk_state_history")
            return found.fetchone() == (PARTITIONS * self.sent,) * 2


@pytest.fixture
def traders(client: Any, database_url: str) -> Traders:
    return Traders(client, database_url)


def held(client: Any) -> list[list[int]]:
    """The shares that are under way: [share, shares]."""
    found = []
    for number in range(PARTITIONS):
        try:
            job = DrainJob.fetch(f"drain-{number}", connection=client, serializer="json")
        except NoSuchJobError:
            continue
        if job.get_status(refresh=False) == "started":
            found.append(job.args)
    return found


def test_a_worker_that_joins_takes_a_share_and_the_others_take_it_back_when_it_dies(
    new_worker: NewWorker, client: Any, traders: Traders, bound: Bound
) -> None:
    first = new_worker()
    wait_until(lambda: held(client) == [[0, 1]], 20, "the first has all partitions")
    traders.report()
    wait_until(traders.are_stored, 5, "it drains all")
    began = time.monotonic()
    second = new_worker()
    wait_until(lambda: held(client) == [[0, 2], [1, 2]], 10, "each has a half")
    bound("a worker joins", time.monotonic() - began)
    traders.report()
    wait_until(traders.are_stored, 5, "both drain")
    second.kill()
    killed = time.monotonic()
    traders.report()
    wait_until(traders.are_stored, 10, "the first drains all")
    bound("a worker is killed, others run on the same host", time.monotonic() - killed)
    wait_until(lambda: held(client) == [[0, 1]], 5, "it has all partitions again")
    assert set(client.keys("rq:job:*")) == {b"rq:job:drain-0"}
    third = new_worker()
    wait_until(lambda: held(client) == [[0, 2], [1, 2]], 10, "each has a half")
    assert third.stop() == 0
    stopped = time.monotonic()
    traders.report()
    wait_until(traders.are_stored, 5, "the first drains all when one stops in good order")
    bound("a worker ends in good order, others run", time.monotonic() - stopped)
    assert first.stop() == 0
    assert "Traceback" not in first.log


def test_a_worker_that_loses_postgres_leaves_its_share_to_one_that_has_not(
    new_worker: NewWorker, client: Any, traders: Traders, database_url: str
) -> None:
    with Proxy(database_url) as proxy:
        cut_off = new_worker(sys.executable, "-c", SOON_LOST, POSTGRES_URL=proxy.url)
        sound = new_worker()
        wait_until(lambda: held(client) == [[0, 2], [1, 2]], 20, "each has a half")
        traders.report()
        wait_until(traders.are_stored, 5, "both drain")
        proxy.swallowing = proxy.refusing = True
        traders.report()
        wait_until(traders.are_stored, 12, "the other one drains all")
        assert "leaves its share of the partitions to the other workers" in cut_off.log
        assert client.scard(WORKERS_KEY) == 1
        for _ in range(3):
            traders.report()
            wait_until(traders.are_stored, 5, "it goes on alone")
        proxy.heal()
        wait_until(lambda: "can use Postgres again" in cut_off.log, 10, "it is back")
        wait_until(lambda: held(client) == [[0, 2], [1, 2]], 10, "each has a half")
        traders.report()
        wait_until(traders.are_stored, 5, "both drain")
        assert sound.stop() == 0
        assert cut_off.stop() == 0
        assert "Traceback" not in cut_off.log + sound.log


@pytest.mark.system
def test_a_worker_whose_host_is_gone_is_replaced_when_its_lease_is_over(
    new_worker: NewWorker, client: Any, traders: Traders, bound: Bound
) -> None:
    gone, other = (new_worker(sys.executable, "-c", ON_ITS_HOST, host) for host in ("host-1", "host-2"))
    wait_until(lambda: held(client) == [[0, 2], [1, 2]], 20, "each has a half")
    traders.report()
    wait_until(traders.are_stored, 5, "both drain")
    gone.kill()
    killed = time.monotonic()
    traders.report()
    wait_until(traders.are_stored, 18, "the other one drains all")
    bound("a worker's host is gone, others run elsewhere", time.monotonic() - killed)
    assert not re.search(r"rq:worker:\S+ is dead", other.log), "nothing but its lease showed it"


@pytest.mark.system
def test_a_worker_that_loses_postgres_is_replaced_in_time(
    new_worker: NewWorker, client: Any, traders: Traders, database_url: str, bound: Bound
) -> None:
    with Proxy(database_url) as proxy:
        new_worker(POSTGRES_URL=proxy.url)
        new_worker()
        wait_until(lambda: held(client) == [[0, 2], [1, 2]], 20, "each has a half")
        traders.report()
        wait_until(traders.are_stored, 5, "both drain")
        proxy.swallowing = proxy.refusing = True
        cut = time.monotonic()
        traders.report()
        wait_until(traders.are_stored, 18, "the other one drains all")
        bound("a worker loses Postgres, another has not", time.monotonic() - cut)


@pytest.mark.system
def test_new_partitions_are_drained_soon(
    new_worker: NewWorker, client: Any, environ: dict[str, str], db: psycopg.Connection, bound: Bound
) -> None:
    new_worker()
    wait_until(lambda: held(client) == [[0, 1]], 20, "it drains")
    repartition.change(Settings.load(environ), 4 * PARTITIONS)
    changed = time.monotonic()
    client.xadd(Keys(3 * PARTITIONS).snapshots, {b"s": payload("new", 1)})
    stored = "SELECT FROM risk_state_history WHERE trader_id = 'new'"
    wait_until(lambda: db.execute(stored).rowcount, 5, "what is in a new partition is stored")
    bound("the number of partitions grows", time.monotonic() - changed)


@pytest.mark.system
def test_when_all_lost_postgres_the_first_that_sees_it_again_begins(
    new_worker: NewWorker, client: Any, traders: Traders, database_url: str, bound: Bound
) -> None:
    with Proxy(database_url) as proxy:
        workers = [new_worker(sys.executable, "-c", SOON_LOST, POSTGRES_URL=proxy.url) for _ in range(2)]
        wait_until(lambda: held(client) == [[0, 2], [1, 2]], 20, "each has a half")
        proxy.swallowing = proxy.refusing = True
        traders.report()
        wait_until(lambda: client.scard(WORKERS_KEY) == 0, 15, "both leave the list")
        wait_until(lambda: client.lrange("rq:queue:risk-drain", 0, -1) == [b"drain-0"], 5, "the job waits")
        proxy.heal()
        healed = time.monotonic()
        wait_until(traders.are_stored, 5, "the drain goes on")
        bound("all workers had lost Postgres, and it is back", time.monotonic() - healed)
        wait_until(lambda: held(client) == [[0, 2], [1, 2]], 10, "each has a half again")
        for worker in workers:
            assert worker.stop() == 0


def test_a_worker_without_postgres_stops_at_once(
    new_worker: NewWorker, client: Any, traders: Traders, database_url: str
) -> None:
    with Proxy(database_url) as proxy:
        worker = new_worker(sys.executable, "-c", SOON_LOST, POSTGRES_URL=proxy.url)
        wait_until(lambda: held(client) == [[0, 1]], 20, "it drains")
        proxy.swallowing = proxy.refusing = True
        traders.report()
        wait_until(lambda: "leaves its share" in worker.log, 15, "it waits for Postgres")
        assert worker.stop(timeout_s=3) == 0, worker.log
        assert client.scard(WORKERS_KEY) == 0
