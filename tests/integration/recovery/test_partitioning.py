"""What is agreed on about the number of partitions is the same in Redis and Postgres, whichever loses it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer.contract.keys import NO_NAMESPACE, Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.recovery import repartition
from risk_worker.recovery.floors import Floors
from risk_worker.recovery.partitioning import agree, stored
from risk_worker.stream import partitions
from risk_worker.stream.bindings import OtherDatabase

Environ = dict[str, str]


@pytest.fixture
def environ(redis_url: str, database_url: str) -> Environ:
    return {"REDIS_URL": redis_url, "POSTGRES_URL": database_url, "RISK_PARTITIONS": "4"}


@pytest.fixture
def settings(environ: Environ) -> Settings:
    return Settings.load(environ)


def copies(client: Any, width: int) -> set[bytes | None]:
    return {client.get(Keys(partition).partitioning) for partition in range(width)}


def test_the_first_one_decides_and_all_partitions_know(
    client: Any, database_url: str, db: psycopg.Connection
) -> None:
    assert agree(client, database_url, NO_NAMESPACE, 4) == Partitioning(1, 4)
    assert agree(client, database_url, NO_NAMESPACE, 7) == Partitioning(1, 4)
    assert copies(client, 4) == {b"1:4"}
    assert client.get(Keys(4).partitioning) is None
    assert stored(db) == Partitioning(1, 4)
    assert partitions.look(client, NO_NAMESPACE, 7).uniform


def test_an_emptied_redis_gets_it_back_and_what_came_first_meanwhile_is_looked_at(
    client: Any, settings: Settings, database_url: str, db: psycopg.Connection
) -> None:
    repartition.change(settings, 16)
    client.flushdb()
    client.set(Keys(0).partitioning, "1:3")  # a producer was quicker
    assert agree(client, database_url, NO_NAMESPACE, 9) == Partitioning(4, 16, (4, 3))
    assert copies(client, 16) == {b"4:16,4,3"}
    assert stored(db) == Partitioning(4, 16, (4, 3))


def test_a_producer_that_came_first_to_an_empty_node_changes_no_number(
    client: Any, database_url: str
) -> None:
    """The copies and Postgres are of the first version, as where the number was never changed."""
    assert agree(client, database_url, NO_NAMESPACE, 16).text == "1:16"
    client.set(Keys(0).partitioning, "1:1")
    found = agree(client, database_url, NO_NAMESPACE, 16)
    assert (found.partitions, found.others) == (16, (1,))
    assert {client.get(Keys(each).partitioning) for each in range(16)} == {found.text.encode()}


def test_a_comparison_with_postgres_brings_it_back_first(
    client: Any, settings: Settings, database_url: str
) -> None:
    repartition.change(settings, 16)
    client.flushdb()
    with Floors(client, database_url, 5) as floors:
        floors.compare()
    assert client.get(Keys(5).partitioning) == b"3:16,4"
    assert client.hget(Keys(5).floors, "") is not None


def test_postgres_gets_what_redis_had_before_its_table(client: Any, database_url: str, db: Any) -> None:
    for partition in range(3):
        client.set(Keys(partition).partitioning, "5:3,2")
    assert agree(client, database_url, NO_NAMESPACE, 1) == stored(db) == Partitioning(5, 3, (2,))


@pytest.mark.parametrize(
    "bad",
    [b"", b"four", b"\xff", b"0:4", b"9:300", b"9:4,", b"9:0", b"9:4,4", b"9:", b"9:4,,5", b"1000000000:4"],
)
def test_a_copy_that_cannot_be_read_is_written_anew(client: Any, database_url: str, bad: bytes) -> None:
    agree(client, database_url, NO_NAMESPACE, 4)
    client.set(Keys(2).partitioning, bad)
    client.delete(Keys(3).partitioning)
    client.rpush(Keys(3).partitioning, "of another type")
    assert not partitions.look(client, NO_NAMESPACE, 4).uniform
    agree(client, database_url, NO_NAMESPACE, 4)
    assert copies(client, 4) == {b"1:4"}


def test_a_row_written_by_hand(client: Any, database_url: str, db: psycopg.Connection) -> None:
    db.execute("UPDATE risk_deployment SET partitions = 6")
    assert agree(client, database_url, NO_NAMESPACE, 1) == Partitioning(1, 6)
    db.execute("UPDATE risk_deployment SET other_partitions = '{6}'")  # twice the same: it cannot be used
    assert stored(db) is None
    assert agree(client, database_url, NO_NAMESPACE, 1) == stored(db) == Partitioning(1, 6)


def test_streams_of_another_database_are_left_alone(client: Any, settings: Settings, db: Any) -> None:
    client.set(Keys(0).database, "00000000-0000-0000-0000-000000000000")
    with pytest.raises(OtherDatabase):
        repartition.change(settings, 16)
    assert stored(db) is None and client.get(Keys(0).partitioning) is None


def test_the_new_number_is_looked_at_everywhere_before_it_is_in_force(
    client: Any, settings: Settings, database_url: str, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is killed between the two steps; another one goes on."""
    agree(client, database_url, NO_NAMESPACE, 4)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repartition, "_compare", killed)
        with pytest.raises(KeyboardInterrupt):
            repartition.change(settings, 16)
    assert copies(client, 16) == {b"2:4,16"}
    assert stored(db) == Partitioning(2, 4, (16,))
    assert repartition.change(settings, 16).splitlines()[0].split() == ["partitions", "16"]
    assert copies(client, 16) == {b"3:16,4"}
    for partition in range(16):
        assert client.hget(Keys(partition).floors, "") is not None
    repartition.change(settings, 16)
    assert copies(client, 16) == {b"3:16,4"}
    repartition.change(settings, 4)
    assert copies(client, 16) == {b"4:4,16"}


def test_a_change_that_another_one_overtakes_ends_with_an_error(
    client: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = repartition._compare

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(repartition, "_compare", compare)
        repartition.change(settings, 5)
        compare(*arguments)

    monkeypatch.setattr(repartition, "_compare", overtaken)
    with pytest.raises(repartition.NotChanged, match="there are 5 partitions now"):
        repartition.change(settings, 16)
    agreed = partitions.look(client, NO_NAMESPACE, 1).agreed
    assert agreed is not None and set(agreed.numbers) == {4, 5, 16}


@pytest.mark.parametrize("newer", ["9:5,4", "2:7,4", "no copy"])
def test_a_partition_that_does_not_take_the_change_ends_it(
    client: Any, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, newer: str
) -> None:
    """Another change has come there between its look and its write."""
    agree(client, database_url, NO_NAMESPACE, 4)
    look = partitions.look

    def looked(*arguments: Any) -> partitions.InUse:
        seen = look(*arguments)
        if seen.agreed is not None and stored_text(database_url) == "2:4,16":
            client.set(Keys(3).partitioning, newer)
        return seen

    def wrong(*_: Any) -> list[object]:
        return [newer.encode()] * 16

    monkeypatch.setattr(partitions, "look", looked)
    if newer == "no copy":
        monkeypatch.setattr(repartition, "write", wrong)
    with pytest.raises(repartition.NotChanged, match=f"has {newer} instead of 2:4,16: another change"):
        repartition.change(settings, 16)


def stored_text(database_url: str) -> str:
    with psycopg.connect(database_url) as db:
        found = stored(db)
    return "" if found is None else found.text


def test_the_command(client: Any, environ: Environ) -> None:
    def run(*arguments: str, **more: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(cli, ["partitions", *arguments], env=environ | more)
        return done.exit_code, done.stdout, done.stderr

    nothing = (
        "Nothing is agreed on yet: a producer or worker with this environment makes it 4.\nNo entries wait.\n"
    )
    assert run() == (0, nothing, "")
    assert run("6")[0] == 0
    client.xadd(Keys(5).snapshots, {"s": "x"})
    shown = (
        "partitions                6\nalso looked at            4\npartition 5               1 entries wait\n"
    )
    assert run() == (0, shown, "")
    for wrong in ("0", "257", "-1", "x", "1.5", ""):
        assert run(wrong)[0] == 2, wrong
    assert run("8", REDIS_URL="redis://127.0.0.1:1/0")[0] == 2
    assert run("8", POSTGRES_URL="postgresql://x@127.0.0.1:1/x")[0] == 2
    assert copies(client, 6) == {b"3:6,4"}
