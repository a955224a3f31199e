"""Two deployments on one Redis, each with a database of its own, do not mix: a stream knows whose it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer import StateUnknown
from risk_producer.contract.keys import Keys, Keyspace
from risk_worker.cli import cli
from risk_worker.database.deployment import identity_of
from risk_worker.stream.bindings import Bindings, OtherDatabase
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.producers import OnLoop, Threaded
from tests.support.servers import Databases
from tests.support.wait import wait_until

PARTITIONS = 2
SENT = 40


class Deployment:
    """A namespace, a database, and the processes that have both in their settings."""

    def __init__(self, name: str, environ: dict[str, str], database_url: str, folder: Path) -> None:
        self.name = name
        self.database_url = database_url
        self.environ = {**environ, "POSTGRES_URL": database_url, "RISK_PARTITIONS": str(PARTITIONS)}
        if name:
            self.environ["RISK_NAMESPACE"] = name
        self.keyspace = Keyspace(name)
        self._folder = folder
        self._started: list[ChildProcess] = []

    @property
    def identity(self) -> str:
        with psycopg.connect(self.database_url) as db:
            return identity_of(db)

    def worker(self, *command: str, **more: str) -> ChildProcess:
        log = self._folder / f"{self.name}-{len(self._started)}.log"
        self._started.append(ChildProcess(log, {**self.environ, **more}, command).start())
        return self._started[-1]

    def rq_worker(self, **more: str) -> ChildProcess:
        rq = str(Path(sys.executable).with_name("rq"))
        url = self.environ["REDIS_URL"]
        worker_class = "risk_worker.runtime.worker.DrainWorker"
        return self.worker(rq, "worker", "-u", url, "-w", worker_class, "risk-drain", **more)

    def producer(self, flavour: str = "threaded", **more: Any) -> Any:
        kind = Threaded if flavour == "threaded" else OnLoop
        url = self.environ["REDIS_URL"]
        return kind(redis_url=url, namespace=self.name, partitions=PARTITIONS, **more)

    def push(self, traders: int = 4, flavour: str = "threaded") -> None:
        """SENT snapshots of traders that other deployments have too, marked with this one's name."""
        producer = self.producer(flavour)
        for number in range(SENT):
            producer.push(snapshot(f"t{number % traders}", reason=self.name or "none"))
        assert producer.close()

    def reasons(self) -> dict[str, int]:
        """Whose rows are in its database -> how many."""
        with psycopg.connect(self.database_url) as db:
            return dict(db.execute("SELECT reason, count(*) FROM risk_state_history GROUP BY 1").fetchall())

    def run(self, *command: str, **options: Any) -> Any:
        return CliRunner().invoke(cli, list(command), env=self.environ, **options)

    def stop(self) -> None:
        for each in self._started:
            each.__exit__(None, None, None)


class Site:
    """Deployments on one Redis."""

    def __init__(self, environ: dict[str, str], databases: Databases, template: str, folder: Path) -> None:
        self._environ = environ
        self._databases = databases
        self._template = template
        self._folder = folder
        self.made: list[Deployment] = []

    def deployment(self, name: str = "") -> Deployment:
        """One with a database and an identity of its own; a copy of the template has the template's."""
        url = self._databases.take(self._template)
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("UPDATE risk_deployment SET id = gen_random_uuid()")
        folder = self._folder / str(len(self.made))
        folder.mkdir()
        self.made.append(Deployment(name, self._environ, url, folder))
        return self.made[-1]


@pytest.fixture
def site(
    environ: dict[str, str], databases: Databases, migrated_template: str, tmp_path: Path
) -> Iterator[Site]:
    made = Site(environ, databases, migrated_template, tmp_path)
    yield made
    for each in made.made:
        each.stop()
        databases.give_back(each.database_url)


def test_with_namespaces_all_rows_are_in_the_right_database(site: Site, client: Any) -> None:
    """Traders and workers of three at once, one started by RQ's own command, one without a namespace."""
    plain, desk1, desk2 = site.deployment(), site.deployment("desk1"), site.deployment("desk.2")
    plain.worker()
    desk1.worker()
    desk2.rq_worker(RQ_KEY_PREFIX="desk.2:rq")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: each.push(), (plain, desk1)))
    desk2.push(flavour="asyncio")
    for each in site.made:
        expected = {each.name or "none": SENT}
        wait_until(lambda each=each, expected=expected: each.reasons() == expected, 30, each.name)  # type: ignore[misc]
        assert client.get(each.keyspace.keys(0).database) == each.identity.encode()
        assert client.get(each.keyspace.database) == each.identity.encode()
        reconciled = each.run("verify")
        assert reconciled.exit_code == 0, reconciled.output
    begins = (b"risk:", b"rq:", b"desk1:risk:", b"desk1:rq:", b"desk.2:risk:", b"desk.2:rq:")
    assert [key for key in client.scan_iter() if not key.startswith(begins)] == []
    for prefix in ("", "desk1:", "desk.2:"):  # for a moment there is none, between two time slices
        job = f"{prefix}rq:job:drain-0"
        wait_until(lambda job=job: client.exists(job), what=job)  # type: ignore[misc]


def test_without_namespaces_the_second_deployment_is_refused(site: Site, client: Any) -> None:
    first, second = site.deployment(), site.deployment()
    first.worker()
    wait_until(
        lambda: client.exists(Keys(0).database, Keys(1).database) == 2, 20, "the first has claimed all"
    )
    refused = second.worker()
    assert refused.wait(30) == 2
    for identity in (first.identity, second.identity):
        assert identity in refused.log
    assert "RISK_NAMESPACE" in refused.log and "riskstream rebind" in refused.log
    first.push()
    wait_until(lambda: first.reasons() == {"none": SENT}, 20, "the first goes on")
    assert second.reasons() == {}
    for command in (["verify"], ["repair", "t0"]):
        done = second.run(*command)
        assert done.exit_code == 2, done.output
        assert first.identity in done.output and second.identity in done.output
    with psycopg.connect(second.database_url) as db:
        assert db.execute("SELECT count(*) FROM risk_state").fetchone() == (0,)
    assert client.get(Keys(0).database) == first.identity.encode(), "the second has changed nothing"


@pytest.mark.parametrize("flavour", ["threaded", "asyncio"])
def test_load_compares_where_it_asks_the_database(site: Site, client: Any, flavour: str) -> None:
    ours, other = site.deployment("desk1"), site.deployment("desk1")
    ours.push()
    Bindings(client, ours.identity).claim([ours.keyspace.keys(number) for number in range(PARTITIONS)])
    with_own = ours.producer(flavour, database_url=ours.database_url)
    assert with_own.load("t0") is not None
    with_other = ours.producer(flavour, database_url=other.database_url)
    with pytest.raises(StateUnknown, match=f"{ours.identity}, and this database is {other.identity}"):
        with_other.load("t0")
    for each in (with_own, with_other):
        each.close()


@pytest.mark.parametrize(
    ("namespace", "prefix", "wanted"),
    [("desk1", "rq", "desk1:rq"), ("", "x:rq", "rq")],
)
def test_another_prefix_of_rq_is_refused(site: Site, namespace: str, prefix: str, wanted: str) -> None:
    deployment = site.deployment(namespace)
    workers = [deployment.worker(RQ_KEY_PREFIX=prefix), deployment.rq_worker(RQ_KEY_PREFIX=prefix)]
    for each in workers:
        assert each.wait(30) != 0
        assert f"RQ_KEY_PREFIX is {prefix}, but RISK_NAMESPACE" in each.log
        assert f"set RQ_KEY_PREFIX={wanted}" in each.log


class TestWhileItRuns:
    """Redis is replaced under a worker that goes on."""

    def test_an_emptied_redis_is_filled_again(self, site: Site, client: Any) -> None:
        deployment = site.deployment("desk1")
        deployment.worker()
        deployment.push()
        wait_until(lambda: deployment.reasons() == {"desk1": SENT}, 20, "stored")
        client.flushdb()
        deployment.push()
        wait_until(lambda: deployment.reasons() == {"desk1": 2 * SENT}, 30, "stored again")
        keys = deployment.keyspace.keys(0)
        wait_until(lambda: client.get(keys.database) == deployment.identity.encode(), 5, "written again")

    def test_another_deployments_data_are_not_stored_until_rebind(self, site: Site, client: Any) -> None:
        deployment = site.deployment()
        worker = deployment.worker()
        deployment.push()
        wait_until(lambda: deployment.reasons() == {"none": SENT}, 20, "stored")
        other = str(uuid4())
        for number in range(PARTITIONS):  # as after a restore of another deployment's file
            client.set(Keys(number).database, other)
        deployment.push()
        wait_until(lambda: f"names the database {other}" in worker.log, 20, "the worker says so")
        assert "as it is another database's" in worker.log
        assert deployment.reasons() == {"none": SENT}

        declined = deployment.run("rebind", input="n\n")
        assert declined.exit_code == 1
        assert other in declined.output and deployment.identity in declined.output
        assert client.get(Keys(0).database) == other.encode()
        done = deployment.run("rebind", "--yes")
        assert done.exit_code == 0, done.output
        wait_until(lambda: deployment.reasons() == {"none": 2 * SENT}, 20, "it goes on by itself")
        [(_, record)] = client.xrange(Keys(1).repairs)
        assert (record[b"key"], record[b"before"]) == (Keys(1).database.encode(), other.encode())
        assert record[b"after"] == deployment.identity.encode()
        assert deployment.run("rebind").output.endswith("nothing to change.\n")

    def test_another_identity_of_the_database_is_seen_by_a_worker(self, site: Site, client: Any) -> None:
        """As a copy for staging gets it; the worker reads it again once Redis names another one."""
        deployment = site.deployment()
        deployment.worker()
        wait_until(lambda: client.exists(Keys(1).database), 20, "claimed")
        before = deployment.identity
        done = deployment.run("rebind", "--new-identity", "--yes")
        assert done.exit_code == 0, done.output
        assert deployment.identity != before
        assert client.get(Keys(0).database) == client.get(Keyspace().database) == deployment.identity.encode()
        deployment.push()
        wait_until(lambda: deployment.reasons() == {"none": SENT}, 60, "it goes on by itself")


class TestTheFirstWorker:
    def test_of_two_at_once_one_has_all_the_streams(self, client: Any) -> None:
        """And the other one has none of them."""
        partitions = [Keys(number) for number in range(8)]

        def claim(identity: str) -> str:
            try:
                Bindings(client, identity).claim(partitions)
            except OtherDatabase:
                return ""
            return identity

        for _ in range(20):
            with ThreadPoolExecutor(2) as pool:
                [winner] = filter(None, pool.map(claim, (str(uuid4()), str(uuid4()))))
            found = {client.get(keys.database) for keys in partitions}
            assert found == {winner.encode()}
            client.flushdb()

    def test_what_is_no_identity_is_refused_and_left(self, client: Any) -> None:
        client.set(Keys(1).database, b"\xff\0x")
        with pytest.raises(OtherDatabase, match="which is no identity"):
            Bindings(client, str(uuid4())).claim([Keys(0), Keys(1)])
        assert client.get(Keys(0).database) is None, "nothing was written beside the others"

    def test_a_redis_that_is_full_hinders_no_start(self, client: Any) -> None:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            Bindings(client, str(uuid4())).claim([Keys(0), Keys(1)])
        finally:
            client.config_set("maxmemory", before)
        assert client.exists(Keys(0).database) == 0
