"""Each trader belongs to a namespace, which an operator may change; Redis follows Postgres."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from risk_producer import StateUnknown
from risk_producer.contract.keys import Keys, partition_of
from tests.support.database import rows
from tests.support.desks import Desks
from tests.support.factory import snapshot

PARTITIONS = 2


@pytest.fixture
def desks(environ: dict[str, str]) -> Desks:
    return Desks(environ, "desk1", "desk2", partitions=PARTITIONS)


def owners(db: psycopg.Connection) -> dict[str, str | None]:
    return dict(rows(db, "SELECT trader_id, namespace FROM risk_state"))


def load(desks: Desks, name: str, trader: str, **more: str) -> str | None:
    """The reason in the state that a new producer of a desk finds; None: there is none, for certain."""
    with desks.producer(name, **more) as producer:
        found = producer.load(trader)
    return None if found is None else found.snapshot.reason


def in_redis_alone(desks: Desks) -> dict[str, str]:
    return {"POSTGRES_URL": ""}


def test_an_emptied_redis_gets_each_trader_back_in_its_own_namespace(desks: Desks, client: Any) -> None:
    desks.push("desk1", "a", "b", count=3)
    desks.push("desk2", "c")
    assert desks.drain() == 7
    epoch = client.hget(Keys(partition_of("a", PARTITIONS), "desk1").epochs, "a")
    client.flushdb()
    with pytest.raises(StateUnknown):
        load(desks, "desk1", "a", **in_redis_alone(desks))
    desks.compare()
    for name, own, other in (("desk1", "a", "c"), ("desk2", "c", "a")):
        for more in (in_redis_alone(desks), {}):  # asked of Redis alone, and of Postgres too
            assert load(desks, name, own, **more) == name
            assert load(desks, name, other, **more) is None
    assert client.hget(Keys(partition_of("a", PARTITIONS), "desk1").epochs, "a") == epoch
    for number in range(PARTITIONS):
        of_other = Keys(number, "desk2")
        assert not client.hexists(of_other.epochs, "a") and not client.hexists(of_other.floors, "a")


def test_a_trader_is_given_to_another_desk(desks: Desks, client: Any, db: psycopg.Connection) -> None:
    desks.push("desk1", "a", "b")
    desks.drain()
    desks.compare()
    assert desks.run("traders").output.split() == ["desk1", "2", "traders"]
    done = desks.run("traders", "assign", "desk2", "a")
    assert (done.exit_code, done.output) == (0, "1 traders belong to desk2\n")
    assert owners(db) == {"a": "desk2", "b": "desk1"}
    with pytest.raises(StateUnknown):  # until a worker has compared
        load(desks, "desk2", "a", **in_redis_alone(desks))
    desks.compare()
    assert load(desks, "desk2", "a", **in_redis_alone(desks)) == "desk1"
    assert load(desks, "desk1", "a", **in_redis_alone(desks)) is None
    # It goes on with a greater epoch there, and what its former desk sends is refused.
    desks.push("desk2", "a")
    desks.push("desk1", "a")
    assert desks.drain() == 2
    assert rows(db, "SELECT reason FROM risk_state WHERE trader_id = 'a'") == [("desk2",)]
    assert rows(db, "SELECT count(*) FROM risk_dead_letter") == [(1,)]
    found = desks.verify()
    assert (found["reconciled"], found["accepted"], found["stored"], found["dead"]) == (True, 3, 3, 1)
    # With the trader the operator may give back what was refused.
    assert desks.run("traders", "assign", "desk1", "a").exit_code == 0
    done = desks.run("dead", "retry")
    assert "1 stored" in done.output, done.output
    assert rows(db, "SELECT count(*) FROM risk_dead_letter") == [(0,)]


def test_all_traders_of_a_namespace_and_those_of_none(desks: Desks, db: psycopg.Connection) -> None:
    desks.push("desk1", "a", "b")
    desks.drain()
    db.execute("UPDATE risk_state SET namespace = NULL WHERE trader_id = 'b'")
    assert desks.run("traders").output.split("\n")[1].split() == ["(none)", "1", "traders"]
    assert desks.run("traders", "assign", "desk2", "--unassigned").output == "1 traders belong to desk2\n"
    assert owners(db) == {"a": "desk1", "b": "desk2"}
    assert desks.run("traders", "assign", "desk3", "--of", "desk1").output == "1 traders belong to desk3\n"
    assert owners(db) == {"a": "desk3", "b": "desk2"}


def test_what_makes_no_sense_changes_nothing(desks: Desks, db: psycopg.Connection) -> None:
    desks.push("desk1", "a")
    desks.drain()
    for words, says in (
        (["desk2"], "Name traders, or give one of --of and --unassigned"),
        (["desk2", "a", "--unassigned"], "Name traders, or give one of"),
        (["desk2", "a", "z"], "Postgres knows no snapshot of 'z'"),
        (["desk:2", "a"], "a namespace has 1 to 64 of a-z"),
        (["desk1+desk2", "a"], "a namespace has 1 to 64 of a-z"),
        (["", "a"], "a namespace has 1 to 64 of a-z"),
    ):
        done = desks.run("traders", "assign", *words)
        assert done.exit_code == 2 and says in done.output, done.output
        assert owners(db) == {"a": "desk1"}


def test_a_trader_that_is_behind_is_repaired_in_its_own_namespace(desks: Desks, client: Any) -> None:
    desks.push("desk1", "a")
    desks.drain()
    latest = Keys(partition_of("a", PARTITIONS), "desk1").latest
    client.hset(latest, "a", b"nonsense")
    refused = desks.run("repair", "a", RISK_NAMESPACES="", RISK_NAMESPACE="desk2")
    assert refused.exit_code == 2 and "belongs to namespace desk1" in refused.output
    assert desks.run("repair", "a").exit_code == 0
    assert load(desks, "desk1", "a") == "desk1"
    unknown = desks.run("repair", "z")
    assert unknown.exit_code == 2 and "set RISK_NAMESPACE in its place" in unknown.output


def test_the_number_of_partitions_is_changed_in_all_namespaces(desks: Desks, client: Any) -> None:
    desks.push("desk1", "a")
    desks.push("desk2", "b")
    desks.drain()
    done = desks.run("partitions", "5")
    assert done.exit_code == 0, done.output
    for name in ("desk1", "desk2"):
        assert {client.get(Keys(number, name).partitioning) for number in range(5)} == {b"3:5,2"}
    # What the traders of a desk write into their own copies is theirs alone.
    client.set(Keys(0, "desk1").partitioning, "9:7")
    desks.compare()
    assert client.get(Keys(0, "desk2").partitioning) == b"3:5,2"
    assert client.get(Keys(4, "desk1").partitioning) == b"10:7,5,2"
    with desks.producer("desk2") as producer:
        producer.push(snapshot("b"), timeout=30)
    assert desks.drain() == 1
