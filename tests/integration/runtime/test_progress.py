"""Every partition goes on, whatever is in RQ's keys and whatever Redis refuses; what does not is named."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.audit.verify import verify
from risk_worker.stream.source import connect
from risk_worker.stream.workers import process_host
from tests.conftest import MakeValkey
from tests.support.bounds import Bound
from tests.support.factory import payload
from tests.support.process import ChildProcess
from tests.support.redis import drains
from tests.support.wait import wait_until

RQ = str(Path(sys.executable).with_name("rq"))
DRAIN_WORKER = "risk_worker.runtime.worker.DrainWorker"


class Site:
    """A Redis, a database, workers, and what waits in each partition."""

    def __init__(self, redis_url: str, database_url: str, folder: Path) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.client: Any = connect(redis_url)
        self.sent = 0
        self._folder = folder
        self._workers: list[ChildProcess] = []

    def worker(self, *command: str, **more: str) -> ChildProcess:
        environ = {"REDIS_URL": self.redis_url, "RQ_REDIS_URL": self.redis_url, **more}
        environ["POSTGRES_URL"] = self.database_url
        log = self._folder / f"worker-{len(self._workers)}.log"
        self._workers.append(ChildProcess(log, environ, command).start())
        return self._workers[-1]

    def report(self, *partitions: int, count: int = 1) -> None:
        for _ in range(count):
            for partition in partitions or (0,):
                self.sent += 1
                entry = {b"s": payload(f"p{partition}", self.sent, reason="x" * 900)}
                self.client.xadd(Keys(partition).snapshots, entry)

    def stored(self) -> int:
        with psycopg.connect(self.database_url) as db:
            row = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
        assert row is not None
        return int(row[0])

    def all_is_stored(self) -> bool:
        return self.stored() == self.sent

    def close(self) -> None:
        for worker in self._workers:
            worker.__exit__(None, None, None)
        self.client.close()


@pytest.fixture
def site(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(redis_url, database_url, tmp_path)
    yield made
    made.close()


def test_a_remnant_of_a_job_is_replaced_before_and_under_a_worker(site: Site) -> None:
    site.client.hset("rq:job:drain-0", "status", "started")
    site.report()
    worker = site.worker()
    wait_until(site.all_is_stored, 10, "the partition is drained")
    assert "Re-enqueued drain job drain-0: it was unreadable" in worker.log


def test_at_maxmemory_a_worker_that_is_started_drains_at_once(
    site: Site, make_valkey: MakeValkey, database_url: str, tmp_path: Path
) -> None:
    server = make_valkey(maxmemory_policy="noeviction", appendfsync="no")
    full = Site(server.url, database_url, tmp_path)
    try:
        full.report(count=300)
        full.client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            full.report()
        full.sent -= 1
        worker = full.worker()
        wait_until(full.all_is_stored, 15, "what waits is stored")
        wait_until(lambda: not full.client.xlen(Keys(0).snapshots), 15, "it is acknowledged a moment later")
        assert "drains all partitions without it" in worker.log
        assert "Traceback" not in worker.log
        full.client.config_set("maxmemory", 0)
        wait_until(lambda: drains(full.client), 15, "the worker registers")
        # The same amid its work: what came in before is stored, and it comes back.
        full.report(count=10)
        full.client.config_set("maxmemory", 1)
        wait_until(full.all_is_stored, 10, "what waits is stored")
        full.client.config_set("maxmemory", 0)
        full.report()
        wait_until(full.all_is_stored, 10, "it goes on")
        assert worker.stop() == 0
    finally:
        full.close()


def test_a_partition_that_cannot_be_read_holds_up_no_other_and_is_named(site: Site) -> None:
    site.client.set(Keys(0).snapshots, "x")
    worker = site.worker(RISK_PARTITIONS="4")
    for _ in range(3):
        site.report(1, 2, 3)
        wait_until(site.all_is_stored, 10, "the other partitions go on")
    assert worker.log.count("The worker cannot store") == 1
    assert "The worker cannot store partition 0, as Redis does not serve it: WRONGTYPE" in worker.log
    wait_until(
        lambda: "Partition 0 cannot be drained: Redis' key risk:{0}:snapshots cannot be read" in worker.log,
        10,
        "it is named",
    )
    site.client.delete(Keys(0).snapshots)
    site.report(0, 1)
    wait_until(site.all_is_stored, 10, "all go on")
    wait_until(lambda: "Partition 0 is drained again" in worker.log, 10, "its end is told")
    assert worker.log.count("The worker stores all partitions again: partition 0 answered after") == 1
    assert worker.stop() == 0


BAD: dict[str, Callable[[Any, str], Any]] = {
    "string": lambda client, key: client.set(key, b"\xff"),
    "list": lambda client, key: client.rpush(key, b"\xff"),
    "set": lambda client, key: client.sadd(key, b"\xff"),
    "zset": lambda client, key: client.zadd(key, {b"\xff": "inf"}),
    "hash": lambda client, key: client.hset(key, b"\xff", b"\xff"),
}


SHORT_SLICES = """
from risk_worker.cli import cli
from risk_worker.runtime.time_slice import TimeSlice
TimeSlice.LENGTH_S = 0.5
cli(["worker"])
"""
"""A worker that needs RQ's keys twice a second; in the middle of a time slice it needs none."""


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["string", "list", "hash"])
def test_every_key_of_rq_may_be_replaced_under_load(site: Site, kind: str, bound: Bound) -> None:
    """Two partitions and a worker; each key that RQ has then becomes something else, one after the other."""
    worker = site.worker(sys.executable, "-c", SHORT_SLICES, RISK_PARTITIONS="2", RISK_LOG_LEVEL="debug")
    site.report(0, 1)
    wait_until(site.all_is_stored, 20, "it drains")
    seen: set[bytes] = set()
    longest_s = 0.0

    def slices() -> int:
        return worker.log.count("stored in this time slice")

    def fresh() -> list[bytes]:
        """Those of a kind that was not replaced yet; whose the jobs are is left to riskstream rebind."""
        kept = (b"risk:{", b"risk:database")
        keys = sorted(key for key in site.client.scan_iter("r*", count=1_000) if not key.startswith(kept))
        return [key for key in keys if _kind_of(key) not in seen]

    while len(seen) <= 6 or fresh():
        [key, *_] = wait_until(fresh, 30, f"RQ to write another key than {seen}")
        seen.add(_kind_of(key))
        before, spoilt = slices(), time.monotonic()
        with site.client.pipeline(transaction=True) as at_once:  # the worker may write it anew in between
            at_once.delete(key)
            BAD[kind](at_once, key.decode())
            at_once.execute()
        while slices() < before + 2 and time.monotonic() - spoilt < 20:
            sent = time.monotonic()
            site.report(0, 1)
            wait_until(site.all_is_stored, 18, f"both are drained although {key!r} became a {kind}")
            longest_s = max(longest_s, time.monotonic() - sent)
    bound("a key of RQ is lost, or is something else", longest_s)
    assert worker.running
    assert worker.log.count("Traceback") <= 2 * len(seen)
    assert worker.stop() == 0


def _kind_of(key: bytes) -> bytes:
    """The key without what is different each time."""
    return b":".join(part for part in key.split(b":") if len(part) < 32)


@pytest.mark.parametrize(
    ("field", "value"), [("pid", b"abc"), ("process_host", b"\xff\xfe"), ("last_heartbeat", b"garbage")]
)
def test_a_worker_starts_beside_a_registration_that_cannot_be_read(
    site: Site, field: str, value: bytes
) -> None:
    registration = {"pid": "1", "process_host": process_host(), "last_heartbeat": "x", field: value}
    site.client.hset("rq:worker:X", mapping=registration)
    site.client.sadd("rq:workers", "rq:worker:X", b"\xff")
    site.client.sadd("rq:workers:risk-drain", "rq:worker:X", b"\xff")
    site.report()
    worker = site.worker()
    wait_until(site.all_is_stored, 10, "it drains")
    assert worker.running
    if field != "last_heartbeat":
        assert "rq:worker:X" in worker.log


def test_a_name_is_taken_over_at_once_from_a_dead_worker_and_refused_from_a_living(site: Site) -> None:
    command = (RQ, "worker", "-n", "w1", "-w", DRAIN_WORKER, "risk-drain")
    first = site.worker(*command)
    wait_until(lambda: drains(site.client), 20, "it drains")
    second = site.worker(*command)
    assert second.wait(20) != 0
    assert "There exists an active worker named 'w1' already" in second.log
    first.kill()
    site.report()
    third = site.worker(*command)
    wait_until(site.all_is_stored, 6, "its restart drains")
    assert "rq:worker:w1 is dead" in third.log, "it waited for no lease"
    assert site.client.hget("rq:worker:w1", "pid") == str(third.pid).encode()
    assert third.stop() == 0


def test_suspended_workers_say_so(site: Site) -> None:
    worker = site.worker()
    wait_until(lambda: "The worker is ready" in worker.log, 20, "it is there")
    site.client.set("rq:suspended", 1)
    wait_until(lambda: "RQ's workers are suspended" in worker.log, 15, "it is said")
    site.client.delete("rq:suspended")
    site.report()
    wait_until(site.all_is_stored, 10, "it goes on")
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 0


@pytest.mark.system
def test_a_worker_whose_loop_ends_again_and_again_keeps_its_log_and_its_connections_few(site: Site) -> None:
    worker = site.worker()
    wait_until(lambda: drains(site.client), 20, "it drains")
    site.client.execute_command("ACL", "SETUSER", "default", "-blmove", "-lmove")
    try:
        wait_until(lambda: "The worker cannot use RQ" in worker.log, 40, "RQ's loop to end")
        for number in range(1, 8):
            site.report()
            wait_until(site.all_is_stored, 40, f"snapshot {number} is stored without RQ")
        assert worker.log.count("The worker cannot use RQ") in (1, 2), "once a minute"
        assert len(psutil.Process(worker.pid).net_connections("tcp")) < 15
        assert len(psutil.Process(worker.pid).threads()) < 15
        assert worker.log.count("\n") < 40
    finally:
        site.client.execute_command("ACL", "SETUSER", "default", "+blmove", "+lmove")
    wait_until(lambda: drains(site.client), 20, "it works with RQ again")
    assert worker.stop() == 0


def test_verify_names_a_partition_that_is_not_drained(site: Site) -> None:
    seconds, _ = site.client.time()
    entry = {b"s": payload("t", 1)}
    site.client.xadd(Keys(0).snapshots, entry, id=f"{(seconds - 400) * 1000}-0")
    report = verify(Settings(redis_url=site.redis_url, postgres_url=site.database_url))
    assert "Partition 0 has not been drained for 6 min (1 snapshot waits)" in report.problems
