"""Desks that share a Redis and a database, when a worker dies, Redis loses its data, or a desk attacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.exceptions import NoPermissionError

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys, partition_of
from tests.support.database import rows
from tests.support.desks import Desks
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

pytestmark = pytest.mark.system

PARTITIONS = 2
DESKS = ("desk1", "desk2", "desk3")
COMMANDS = "evalsha script|load get setnx hget hmget hset hexists hincrby rpush time type xadd xlen info"


class Traders:
    """Three of each desk, which report until they are told to stop. Desk and trader are in each snapshot."""

    def __init__(self, desks: Desks) -> None:
        self._over = threading.Event()
        self.accepted = dict.fromkeys(DESKS, 0)
        self._producers = {name: desks.producer(name) for name in DESKS}
        self._threads = [threading.Thread(target=self._report, args=(name,)) for name in DESKS]
        for each in self._threads:
            each.start()

    def _report(self, name: str) -> None:
        producer: RiskProducer = self._producers[name]
        number = 0
        while not self._over.wait(0.01):
            number += 1
            made = snapshot(f"{name}-{number % 3}", float(number), reason=name)
            self.accepted[name] += producer.save(made)

    def stop(self) -> None:
        self._over.set()
        for each in self._threads:
            each.join(30)
        for producer in self._producers.values():
            assert producer.close(60)


@pytest.fixture
def desks(environ: dict[str, str]) -> Desks:
    return Desks(environ, *DESKS, partitions=PARTITIONS)


@pytest.fixture
def workers(desks: Desks, tmp_path: Path) -> Iterator[list[ChildProcess]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(ChildProcess(tmp_path / f"worker-{number}.log", desks.environ))
            for number in range(2)
        ]


def counts(db: psycopg.Connection) -> dict[str, int]:
    return dict(rows(db, "SELECT reason, count(*) FROM risk_state_history GROUP BY 1"))


def test_a_worker_dies_and_redis_loses_its_data(
    desks: Desks, workers: list[ChildProcess], client: Any, db: psycopg.Connection
) -> None:
    traders = Traders(desks)
    try:
        wait_until(lambda: len(counts(db)) == 3, 30, "all desks are stored")
        workers[1].kill()
        before = counts(db)
        wait_until(
            lambda: all(count > before[name] + 50 for name, count in counts(db).items()), 40, "they go on"
        )
    finally:
        traders.stop()
    wait_until(lambda: counts(db) == traders.accepted, 30, "what was accepted is stored")
    assert desks.verify()["reconciled"]
    client.flushdb()
    compared = client.info("server")["run_id"].encode()
    everything = [Keys(number, name).floors for name in DESKS for number in range(PARTITIONS)]
    wait_until(lambda: all(client.hget(key, "") == compared for key in everything), 30, "restored")
    wait_until(lambda: desks.verify()["reconciled"], 30, "nothing is lost")
    for name in DESKS:
        held = {key for number in range(PARTITIONS) for key in client.hkeys(Keys(number, name).latest)}
        assert held == {f"{name}-{number}".encode() for number in range(3)}
        with desks.producer(name, POSTGRES_URL="") as producer:
            for other in DESKS:
                found = producer.load(f"{other}-0")
                assert (found is not None) == (other == name)
    more = Traders(desks)
    try:
        wait_until(lambda: all(more.accepted.values()), 30, "they go on with greater epochs")
    finally:
        more.stop()
    both = {name: traders.accepted[name] + more.accepted[name] for name in DESKS}
    wait_until(lambda: counts(db) == both, 30, "all is stored")
    assert rows(db, "SELECT count(*) FROM risk_dead_letter") == [(0,)]


def test_a_desk_with_a_user_of_its_own_can_speak_for_no_other(
    desks: Desks, workers: list[ChildProcess], client: Any, db: psycopg.Connection, redis_url: str
) -> None:
    """Its user may touch the keys of its namespace. All report one trader from the first moment on."""
    for name in DESKS:
        client.execute_command(
            "ACL",
            "SETUSER",
            name,
            "reset",
            "on",
            ">pw",
            f"~{name}:risk:*",
            "-@all",
            *(f"+{each}" for each in COMMANDS.split()),
        )
    try:
        urls = {name: redis_url.replace("redis://", f"redis://{name}:pw@") for name in DESKS}
        producers = {name: desks.producer(name, REDIS_URL=urls[name]) for name in DESKS}
        for number in range(50):
            for name, producer in producers.items():
                producer.save(snapshot("contested", float(number), reason=name))
                producer.save(snapshot(name, float(number), reason=name))
        for producer in producers.values():
            assert producer.flush(60)
        wait_until(lambda: sum(counts(db).values()) == 200, 30, "one of them has it")
        wait_until(
            lambda: rows(db, "SELECT count(*) FROM risk_dead_letter") == [(100,)], 30, "not the others"
        )
        [(owner, reason)] = rows(db, "SELECT namespace, reason FROM risk_state WHERE trader_id = 'contested'")
        assert owner == reason
        assert rows(db, "SELECT DISTINCT reason FROM risk_state_history WHERE trader_id = 'contested'") == [
            (owner,)
        ]
        loser = next(name for name in DESKS if name != owner)
        transport = producers[loser]._engine.flusher.transport
        connection: Any = transport.connected()._client
        partition = partition_of("contested", PARTITIONS)
        for keys in (Keys(partition, owner), Keys(partition)):
            for command in (
                ("XADD", keys.snapshots, "*", "s", "x"),
                ("HGET", keys.latest, "contested"),
                ("HSET", keys.epochs, "contested", "1"),
                ("SETNX", keys.partitioning, "9:256"),
                ("EVALSHA", "0" * 40, "1", keys.snapshots),
            ):
                with pytest.raises(NoPermissionError):
                    connection.execute_command(*command)
        found = desks.verify()
        assert found["reconciled"], found["problems"]
        assert (found["stored"], found["dead"], found["lost"]) == (200, 100, 0)
        for producer in producers.values():
            producer.close()
    finally:
        for name in DESKS:
            client.execute_command("ACL", "DELUSER", name)


def test_workers_with_another_list_do_not_disturb(
    desks: Desks, workers: list[ChildProcess], environ: dict[str, str], db: psycopg.Connection, tmp_path: Path
) -> None:
    """While a desk is added: for a time both sets drain what both serve, and each row is stored once."""
    more = Desks(environ, *DESKS, "desk4", partitions=PARTITIONS)
    with ChildProcess(tmp_path / "more.log", more.environ):
        traders = Traders(desks)
        try:
            more.push("desk4", "new", count=20)
            wait_until(lambda: counts(db).get("desk4") == 20, 30, "the desk that was added is stored")
            for worker in workers:
                assert worker.stop() == 0
            before = counts(db)
            wait_until(
                lambda: all(count > before[name] + 50 for name, count in counts(db).items() if name in DESKS),
                30,
                "the new workers have all of them",
            )
        finally:
            traders.stop()
        wait_until(lambda: counts(db) == {**traders.accepted, "desk4": 20}, 30, "each is stored once")
    assert more.verify()["reconciled"]
