"""Processes are killed, frozen and told to stop, worker and servers alike, and all is reconciled."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from risk_producer import RiskProducer
from risk_producer.settings import Settings
from risk_worker.audit.reconcile import Report
from risk_worker.audit.verify import verify
from risk_worker.database import migrations
from risk_worker.stream.source import connect
from tests.support.bounds import Bound
from tests.support.factory import snapshot
from tests.support.ledger import KEYS, Ledger
from tests.support.process import ChildProcess
from tests.support.redis import drains
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.wait import wait_until

TABLES = ["risk_state_history", "risk_state"]
"""A worker that waits for the first has nothing in its transaction yet; for the second, all of history."""


class Site:
    """A Redis with `appendfsync always` and a Postgres, to kill and freeze, and workers between them."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.redis = EmbeddedValkey(folder / "valkey", appendfsync="always")
        self.postgres = EmbeddedPostgres(folder / "postgres", config=QUICK_POSTGRES)
        self._workers: list[ChildProcess] = []
        self._logs = folder
        self._started = 0

    def __enter__(self) -> Site:
        self._stack.enter_context(self.redis)
        self._stack.enter_context(self.postgres)
        migrations.up(self.postgres.url)
        self.client = self._stack.enter_context(connect(self.redis.url))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def ledger(self) -> Ledger:
        """Everything empty."""
        self.client.flushall()
        with psycopg.connect(self.postgres.url) as db:
            db.execute("ALTER TABLE risk_state_history DISABLE TRIGGER USER")
            db.execute("TRUNCATE risk_state, risk_state_history, risk_dead_letter")
            db.execute("ALTER TABLE risk_state_history ENABLE TRIGGER USER")
        return Ledger(self.client, self.postgres.url)

    def worker(self, **more: str) -> ChildProcess:
        environ = {"REDIS_URL": self.redis.url, "POSTGRES_URL": self.postgres.url, **more}
        self._started += 1
        worker = ChildProcess(self._logs / f"worker-{self._started}.log", environ).start()
        self._workers.append(worker)
        return worker

    def heal(self) -> None:
        """No workers, both servers up."""
        for worker in self._workers:
            worker.__exit__(None, None, None)
        self._workers.clear()
        for server in (self.redis, self.postgres):
            server.resume()
            if not server.running:
                server.start()

    def lose_redis(self) -> None:
        """Redis starts anew with nothing in it."""
        self.redis.kill()
        shutil.rmtree(self.redis.folder / "data")
        self.redis.start()

    def drains(self) -> bool:
        return drains(self.client)

    @contextmanager
    def batch_in_hand(self, ledger: Ledger, table: str) -> Iterator[None]:
        """While it lasts, the worker is in the middle of the transaction that stores 20 snapshots."""
        with psycopg.connect(self.postgres.url) as db:
            db.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            ledger.report(20)
            wait_until(self._waits_for_a_lock, what="a batch in hand")
            yield

    def _waits_for_a_lock(self) -> bool:
        with psycopg.connect(self.postgres.url) as db:
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            comparing = "query LIKE '%ORDER BY trader_id LIMIT%'"  # that gives up by itself
            return db.execute(f"{waiting} AND NOT {comparing}".encode()).rowcount > 0

    def report(self) -> Report:
        return verify(Settings(redis_url=self.redis.url, postgres_url=self.postgres.url))


@pytest.fixture(scope="module")
def built() -> Iterator[Site]:
    with server_folder() as folder, Site(folder) as site:
        yield site


@pytest.fixture
def site(built: Site) -> Iterator[Site]:
    yield built
    built.heal()


@pytest.fixture
def ledger(site: Site) -> Ledger:
    return site.ledger()


def draining(site: Site, **more: str) -> ChildProcess:
    worker = site.worker(**more)
    wait_until(site.drains, 20, "the worker drains")
    return worker


def is_told_to_stop(worker: ChildProcess) -> bool:
    return "warm shut down requested" in worker.log


# A worker


@pytest.mark.parametrize("table", TABLES)
def test_sigterm_amid_a_batch_finishes_it(site: Site, ledger: Ledger, table: str) -> None:
    worker = draining(site)
    with site.batch_in_hand(ledger, table):
        worker.signal(signal.SIGTERM)
        wait_until(lambda: is_told_to_stop(worker))
    assert worker.wait(10) == 0
    settled = len(stored(site))
    assert settled > 0
    assert settled + site.client.xlen(KEYS.snapshots) == 20  # what it had not read yet is untouched
    site.worker()
    wait_until(ledger.is_stored, 20, "the next worker stores the rest")
    ledger.check(duplicates=0)


@pytest.mark.parametrize("table", TABLES)
def test_sigterm_amid_a_batch_that_hangs_leaves_it_untouched_in_time(
    site: Site, ledger: Ledger, table: str
) -> None:
    worker = draining(site, RISK_DRAIN_TIMEOUT_S="1")
    with site.batch_in_hand(ledger, table):
        assert worker.stop(timeout_s=2) == 1
        assert "RISK_DRAIN_TIMEOUT_S" in worker.log
        assert site.client.xlen(KEYS.snapshots) == 20
    site.worker()
    wait_until(ledger.is_stored, 20, "the next worker stores it")
    ledger.check(duplicates=0)


@pytest.mark.parametrize("table", TABLES)
def test_a_second_sigterm_leaves_at_once(site: Site, ledger: Ledger, table: str, bound: Bound) -> None:
    worker = draining(site, RISK_DRAIN_TIMEOUT_S="60")
    with site.batch_in_hand(ledger, table):
        worker.signal(signal.SIGTERM)
        wait_until(lambda: is_told_to_stop(worker))
        said = time.monotonic()
        # RQ takes no notice of a second signal within a second of the first: a pool may send both.
        wait_until(lambda: time.monotonic() - said > 1)
        again = time.monotonic()
        worker.stop(timeout_s=3)
        bound("a second SIGTERM, a second later or more", time.monotonic() - again)
        assert site.client.xlen(KEYS.snapshots) == 20
    site.worker()
    wait_until(ledger.is_stored, 20, "the next worker stores it")
    ledger.check(duplicates=0)


@pytest.mark.parametrize("table", TABLES)
def test_kill_9_amid_a_batch_as_by_the_out_of_memory_killer(site: Site, ledger: Ledger, table: str) -> None:
    worker = draining(site)
    with site.batch_in_hand(ledger, table):
        worker.signal(signal.SIGKILL)
        assert worker.wait(5) == -signal.SIGKILL  # 137 to a shell
    site.worker()
    wait_until(ledger.is_stored, 5, "its restart stores it")
    ledger.check(duplicates=0)


@pytest.mark.slow
@pytest.mark.system
def test_a_worker_frozen_amid_a_batch_for_longer_than_its_lease(site: Site, ledger: Ledger) -> None:
    """Two workers hold the partition then, and what the first has in its transaction is in the way of the
    second until Postgres ends it."""
    frozen = draining(site)
    site.worker()
    ledger.report(5)
    wait_until(ledger.is_stored)
    with site.batch_in_hand(ledger, "risk_state"):
        frozen.signal(signal.SIGSTOP)
    ledger.report(100)
    wait_until(ledger.is_stored, 30, "the other one drains")
    frozen.signal(signal.SIGCONT)
    for _ in range(20):
        ledger.report(50)  # for whoever comes first
    wait_until(ledger.is_stored, what="both drain")
    wait_until(
        lambda: "could not store a batch" in frozen.log, what="the frozen one finds its transaction gone"
    )
    ledger.check()


# Redis or Postgres is away


@pytest.mark.parametrize(
    ("how", "signals"),
    [
        pytest.param("killed", 1, marks=pytest.mark.system),
        ("frozen", 1),
        pytest.param("frozen", 2, marks=pytest.mark.system),
    ],
)
@pytest.mark.parametrize("which", ["redis", "postgres"])
def test_workers_stop_in_time_while_a_server_is_away(
    site: Site, ledger: Ledger, which: str, how: str, signals: int, bound: Bound
) -> None:
    """The one that drains, one that stands by, and one that has only just begun."""
    server: EmbeddedServer = getattr(site, which)
    holds = draining(site, RISK_DRAIN_TIMEOUT_S="2")
    stands_by = site.worker(RISK_DRAIN_TIMEOUT_S="2")
    wait_until(lambda: "The worker is ready" in stands_by.log, 20, "the other one stands by")
    ledger.report(20)
    wait_until(ledger.is_stored)
    server.kill() if how == "killed" else server.pause()
    begins = site.worker(RISK_DRAIN_TIMEOUT_S="2")
    if which == "postgres":
        ledger.report(20)
    wait_until(lambda: begins.log if how == "killed" else is_connected(begins, server))
    for worker in (holds, stands_by, begins):
        worker.signal(signal.SIGTERM)
    said = time.monotonic()
    if signals == 2:
        wait_until(lambda: time.monotonic() - said > 1)  # sooner RQ takes no notice
        for worker in (holds, stands_by, begins):
            worker.signal(signal.SIGTERM)
    for worker in (holds, stands_by, begins):
        worker.wait(3)
    bound("SIGTERM", time.monotonic() - said)
    site.heal()
    ledger.report(20)
    site.worker()
    wait_until(ledger.is_stored, 5, "the next worker stores what is left")
    ledger.check(duplicates=0)


def is_connected(worker: ChildProcess, server: EmbeddedServer) -> bool:
    connections = psutil.Process(worker.pid).net_connections("tcp")
    return any(each.raddr and each.raddr.port == server.port for each in connections)


def test_when_postgres_is_back_the_worker_goes_on_by_itself(site: Site, ledger: Ledger, bound: Bound) -> None:
    worker = draining(site)
    ledger.report(20)
    wait_until(ledger.is_stored)
    site.postgres.kill()
    ledger.report(100)
    ledger.poison(b"nonsense")
    wait_until(lambda: "The worker cannot store" in worker.log, 20, "the worker gives the batch back")
    site.postgres.start()
    back = time.monotonic()
    wait_until(ledger.is_stored, 5, "the drain to go on")
    bound("Postgres is back after an outage of any length", time.monotonic() - back)
    ledger.check()


class Trading:
    """A trader that saves all the time, in a thread, over everything that Redis does."""

    def __init__(self, producer: RiskProducer) -> None:
        self._producer = producer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.accepted: list[str] = []

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.002):
            number += 1
            if self._producer.save(snapshot("t", trace_id=str(number))):
                self.accepted.append(str(number))

    def grows(self, by: int) -> Callable[[], bool]:
        enough = len(self.accepted) + by
        return lambda: len(self.accepted) >= enough

    def __enter__(self) -> Trading:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(10)


def stored(site: Site) -> list[Any]:
    with psycopg.connect(site.postgres.url) as db:
        return db.execute("SELECT trace_id, epoch, seq FROM risk_state_history ORDER BY 2, 3").fetchall()


@pytest.mark.usefixtures("ledger")
def test_redis_restarted_with_its_append_only_file_loses_nothing(site: Site) -> None:
    worker = draining(site)
    with RiskProducer(site.redis.url) as producer, Trading(producer) as trading:
        for down in (site.redis.kill, site.redis.stop):
            wait_until(trading.grows(100))
            down()
            wait_until(trading.grows(30), what="the trader to go on")
            site.redis.start()
        wait_until(trading.grows(100))
        trading.__exit__()
        assert producer.flush(30)
    wait_until(lambda: not site.client.xlen(KEYS.snapshots), 15, "all of it is stored")
    assert [trace for trace, *_ in stored(site)] == trading.accepted
    assert site.report().problems == []
    assert worker.running


def test_redis_restarted_empty_leaves_a_gap_with_a_name_and_everything_goes_on(
    site: Site, ledger: Ledger
) -> None:
    worker = draining(site)
    with RiskProducer(site.redis.url) as producer:
        with site.batch_in_hand(ledger, "risk_state_history"):  # so that what follows stays in the stream
            for number in range(1, 4):
                producer.push(snapshot("t", trace_id=str(number)), timeout=30)
            site.lose_redis()
        for number in range(4, 6):
            producer.push(snapshot("t", trace_id=str(number)), timeout=30)
        wait_until(lambda: [trace for trace, *_ in stored(site)][-2:] == ["4", "5"], 30, "the drain goes on")
    report = site.report()
    [epoch] = [epoch for epoch in report.epochs if epoch.trader_id == "t"]
    assert (epoch.accepted, epoch.stored, epoch.lost, epoch.gaps) == (5, 2, 3, [(1, 3)])
    assert report.problems == [f"t, epoch {epoch.epoch}: lost seq 1 to 3 (3)"]
    with RiskProducer(site.redis.url) as successor:
        successor.push(snapshot("t", trace_id="6"), timeout=30)
    wait_until(lambda: stored(site)[-1][0] == "6", what="what a new producer sends is stored")
    assert stored(site)[-1][1] > epoch.epoch
    with psycopg.connect(site.postgres.url) as db:
        assert db.execute("SELECT trace_id FROM risk_state WHERE trader_id = 't'").fetchall() == [("6",)]
    assert worker.running


def test_a_worker_that_redis_forgot_is_replaced_at_once_when_it_is_killed(site: Site, ledger: Ledger) -> None:
    first = draining(site)
    second = site.worker()
    wait_until(lambda: "The worker is ready" in second.log, 20, "the other one stands by")
    site.lose_redis()
    wait_until(site.drains, 20, "the one that stood by puts the job back and takes it")
    first.kill()
    second.kill()
    ledger.report(20)
    restarted = site.worker()
    wait_until(ledger.is_stored, 5, "a restart sees that the holder is dead")
    assert re.search(r"rq:worker:\S+ is dead", restarted.log), "it waited for no lease"
    ledger.check(duplicates=0)
