"""Faults caused one after the other on a running system: each gives its line, and no other cries.

A fault is a row of the table: how it is caused and undone, which problems `riskstream status` names then (all
of them), a text of its screen, which checks of `riskstream doctor` fail (all of them), a text of its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from risk_producer.contract.keys import Keys
from risk_worker.doctor.examination import as_text
from risk_worker.status.problems import is_well
from risk_worker.status.render import lines
from risk_worker.stream import workers
from tests.support.running import PARTITIONS, RunningSystem
from tests.support.servers import server_folder
from tests.support.wait import wait_until

pytestmark = pytest.mark.system

Cause = Callable[[RunningSystem], AbstractContextManager[None]]
OTHER = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    cause: Cause
    problems: set[str]
    status: str
    doctor: str
    failing: set[str] = field(default_factory=set)
    """link check, of each check that fails."""
    environ: dict[str, str] = field(default_factory=dict)
    """Of the commands alone."""
    serious: bool = True


@contextlib.contextmanager
def nothing(_system: RunningSystem) -> Iterator[None]:
    yield


@contextlib.contextmanager
def worker_killed(system: RunningSystem) -> Iterator[None]:
    system.worker.kill()
    try:
        yield
    finally:
        system.start_worker()


@contextlib.contextmanager
def worker_frozen(system: RunningSystem) -> Iterator[None]:
    system.freeze()
    try:
        yield
    finally:
        system.thaw()


@contextlib.contextmanager
def no_worker(system: RunningSystem) -> Iterator[None]:
    system.worker.stop()
    try:
        yield
    finally:
        system.start_worker()


@contextlib.contextmanager
def redis_stopped(system: RunningSystem) -> Iterator[None]:
    system.redis.kill()
    try:
        yield
    finally:
        system.redis.start()


@contextlib.contextmanager
def redis_frozen(system: RunningSystem) -> Iterator[None]:
    system.redis.pause()
    try:
        yield
    finally:
        system.redis.resume()


@contextlib.contextmanager
def redis_full(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "2gb")


@contextlib.contextmanager
def redis_replica(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("no", "one")


@contextlib.contextmanager
def redis_password(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        client.config_set("requirepass", "geheim")
    try:
        yield
    finally:
        with system.client(password="geheim") as client:
            client.config_set("requirepass", "")


@contextlib.contextmanager
def redis_emptied(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        client.flushall()
        try:
            yield
        finally:  # once both partitions were compared with Postgres
            keys = [Keys(partition) for partition in range(PARTITIONS)]
            run_id = str(client.info("server")["run_id"]).encode()
            wait_until(lambda: all(client.hget(of.floors, "") == run_id for of in keys), 20, "both compared")
            for of in keys:
                client.hdel(of.counters, "restored_ms")


@contextlib.contextmanager
def postgres_stopped(system: RunningSystem) -> Iterator[None]:
    system.postgres.kill()
    try:
        yield
    finally:
        system.postgres.start()


@contextlib.contextmanager
def postgres_frozen(system: RunningSystem) -> Iterator[None]:
    system.postgres.pause()
    try:
        yield
    finally:
        system.postgres.resume()


def in_postgres(cause: str, undo: str) -> Cause:
    @contextlib.contextmanager
    def caused(system: RunningSystem) -> Iterator[None]:
        with system.administrator() as db:
            db.execute(cause.encode())
            try:
                yield
            finally:
                db.execute(undo.encode())

    return caused


@contextlib.contextmanager
def poison(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        client.xadd(Keys(0).snapshots, {"s": "{}"})
    try:
        yield
    finally:
        with system.administrator() as db:
            db.execute("DELETE FROM risk_dead_letter")


@contextlib.contextmanager
def other_database(system: RunningSystem) -> Iterator[None]:
    with system.client() as client:
        own = client.get(Keys(1).database)
        assert isinstance(own, bytes)
        client.set(Keys(1).database, OTHER)
        try:
            yield
        finally:
            client.set(Keys(1).database, own)


FAULTS = {
    "none": Fault(nothing, set(), "✓ No problem was found.", "✓ Everything is as it should be."),
    "worker killed": Fault(worker_killed, {"no_worker"}, "has ended.", "no worker has been heard of"),
    "worker frozen": Fault(
        worker_frozen, {"no_worker"}, "has not been heard of for", "no worker has been heard of"
    ),
    "no worker": Fault(no_worker, {"no_worker"}, "✗ No worker is running", "Start one: riskstream worker"),
    "redis stopped": Fault(
        redis_stopped, {"redis_away"}, "Connection refused", "does not answer", {"redis connection"}
    ),
    "redis frozen": Fault(
        redis_frozen, {"redis_away"}, "does not answer", "does not answer", {"redis connection"}
    ),
    "redis full": Fault(
        redis_full, {"redis_refuses_writes"}, "maxmemory allows (", "OOM", {"redis writes", "redis commands"}
    ),
    "redis is a replica": Fault(
        redis_replica,
        {"redis_refuses_writes"},
        "as it is a replica (",
        "is a replica",
        {"redis role", "redis writes", "redis commands"},
    ),
    "redis wants a password": Fault(
        redis_password, {"redis_away"}, "asks for a password", "asks for a password", {"redis connection"}
    ),
    "redis emptied": Fault(
        redis_emptied,
        {"redis_lost_data"},
        "Redis is new, or came back without its data,",
        "✓ redis connection",
    ),
    "postgres stopped": Fault(
        postgres_stopped,
        {"postgres_away"},
        "Connection refused",
        "Connection refused",
        {"postgres connection"},
    ),
    "postgres frozen": Fault(
        postgres_frozen, {"postgres_away"}, "it did not answer within", "no answer", {"postgres connection"}
    ),
    "postgres read-only": Fault(
        in_postgres(
            "ALTER DATABASE risk SET default_transaction_read_only = on",
            "SET default_transaction_read_only = off;ALTER DATABASE risk RESET default_transaction_read_only",
        ),
        {"postgres_read_only"},
        "default_transaction_read_only is on",
        "default_transaction_read_only is on",
        {"postgres writes", "postgres probe"},
    ),
    "a table is missing": Fault(
        in_postgres(
            "ALTER TABLE risk_state RENAME TO risk_state_elsewhere",
            "ALTER TABLE risk_state_elsewhere RENAME TO risk_state",
        ),
        {"tables_missing"},
        "lacks the table risk_state,",
        "tables are missing: risk_state",
        {"postgres privileges"},
    ),
    "rights revoked": Fault(
        in_postgres(
            "REVOKE INSERT ON risk_state_history, risk_dead_letter FROM risk_worker",
            "GRANT INSERT ON risk_state_history, risk_dead_letter TO risk_worker",
        ),
        {"grants_missing"},
        'ON risk_state_history TO "risk_worker"',
        'ON risk_dead_letter TO "risk_worker";',
        {"postgres privileges", "postgres probe"},
    ),
    "poison": Fault(poison, {"dead_letters"}, "1 dead letter wait", "✓ postgres probe"),
    "another database": Fault(
        other_database, {"other_database"}, f"names the database {OTHER}", OTHER, {"both database"}
    ),
    "unequal partitions": Fault(
        nothing,
        {"partitions_differ"},
        "! RISK_PARTITIONS is 5 here, and the deployment has 2 partitions",
        "! redis partitions",
        environ={"RISK_PARTITIONS": "5"},
        serious=False,
    ),
}


@pytest.fixture(scope="module")
def system() -> Iterator[RunningSystem]:
    with server_folder() as folder, RunningSystem(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def shorter_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who look: a worker is heard of every 3 s."""
    monkeypatch.setattr(workers, "LEASE_S", 6)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_nothing_else_cries(name: str, system: RunningSystem) -> None:
    fault = FAULTS[name]
    system.until_well()
    with fault.cause(system):
        system.until(fault.problems, **fault.environ)
        found = system.status(**fault.environ)
        assert system.problems(**fault.environ) == fault.problems, "it stays so"
        assert is_well(found) is (not fault.serious or not fault.problems)
        assert fault.status in "\n".join(line.text for line in lines(found))
        findings = system.doctor(**fault.environ)
        text = as_text(findings)
        assert {
            f"{each.link} {each.check}" for each in findings if each.level == "failure"
        } == fault.failing, text
        assert fault.doctor in text
    system.until_well()
