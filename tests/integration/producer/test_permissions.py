"""A producer whose user of Redis has few permissions: ops/redis/users.acl's, those of the page, and fewer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from risk_producer import RiskProducer, StateUnknown, StreamUnavailable
from risk_producer.contract.keys import NO_NAMESPACE, Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.transport import requests
from risk_producer.transport.connect import redis_client
from risk_worker.stream import partitions, permissions
from tests.support.factory import snapshot
from tests.support.producers import Threaded
from tests.support.wait import wait_until

PAGE = (Path(__file__).parents[3] / "docs" / "operate" / "redis-users.md").read_text()
[LINE] = re.findall(r"^    ACL SETUSER trader (.*)$", PAGE, re.M)
[OF_FILE] = re.findall(r"^user trader on \S+ (.*)$", permissions.text(), re.M)
[WITH_REPLICAS] = re.findall(r"^\| `RISK_REPLICAS` \| `(.*)` \|$", PAGE, re.M)
OLD = Partitioning(1, 4)
NEW = Partitioning(3, 16, (4,))
MOVING = [name for name in map("t{}".format, range(99)) if OLD.places(name)[0] != NEW.places(name)[0]]


@pytest.fixture
def admin(redis_client: Any) -> Iterator[Any]:
    redis_client.execute_command("ACL", "SETUSER", "trader", "reset", *LINE.split())
    yield redis_client
    redis_client.execute_command("ACL", "DELUSER", "trader")


@pytest.fixture
def url(redis_url: str, admin: Any) -> str:
    return redis_url.replace("redis://", "redis://trader:PASSWORD@")


@pytest.fixture
def make(url: str) -> Iterator[Callable[[], Any]]:
    made: list[Threaded] = []

    def producer(**options: Any) -> Threaded:
        made.append(Threaded(redis_url=url, partitions=4, save_timeout_s=30, **options))
        return made[-1]

    yield producer
    for each in made:
        each.close(0.0)


def agree(admin: Any, found: Partitioning) -> None:
    """As the command and the workers do."""
    for partition in range(found.width):
        admin.set(Keys(partition).partitioning, found.text)
        admin.hset(Keys(partition).floors, "", admin.info("server")["run_id"])


class Used:
    """The commands that Redis has run while this was on, those of scripts included."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self.commands: set[str] = set()

    def __enter__(self) -> None:
        self._before = self._calls()

    def __exit__(self, *_error: object) -> None:
        after = self._calls()
        after["info"] -= 1  # by which they are counted
        self.commands |= {name for name, calls in after.items() if calls > self._before.get(name, 0)}

    def _calls(self) -> dict[str, int]:
        found = self._admin.info("commandstats")
        return {name.removeprefix("cmdstat_"): counts["calls"] for name, counts in found.items()}


@pytest.mark.parametrize("rule", [f"on >PASSWORD {OF_FILE}", LINE], ids=["file", "line"])
def test_a_producer_needs_what_is_written_and_no_more(
    admin: Any, make: Callable[..., Any], url: str, rule: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "trader", "reset", *rule.split())
    admin.script_flush()
    used = Used(admin)
    producer, other = make(), make()
    with used:
        producer.push(snapshot(MOVING[0], 1))
    agree(admin, OLD)
    with used:
        assert other.load(MOVING[0]).snapshot.daily_pnl == 1
        assert other.load("new") is None
        other.push(snapshot(MOVING[0], 2))
        producer.push(snapshot(MOVING[0], 3))
    assert producer.health().fenced == (MOVING[0],)
    agree(admin, NEW)
    with used:
        producer.push(snapshot(MOVING[1], 1))  # with whose answer it hears of the change
        producer.push(snapshot(MOVING[1], 2))
        producer.push(snapshot(MOVING[2], 1))  # its epoch is made known in the former partition
        assert other.load(MOVING[1]).snapshot.daily_pnl == 2
    assert producer.health().partitions == 16
    places = [Keys(each) for each in NEW.places(MOVING[1])]
    for keys in places:  # as after a loss of Redis' data
        admin.hdel(keys.epochs, MOVING[1])
        admin.hset(keys.floors, MOVING[1], 2**52)
    with used:
        producer.push(snapshot(MOVING[1], 3))
        assert producer.flush(30)
    assert admin.hget(places[0].epochs, MOVING[1]) > b"%d" % 2**52
    if rule != LINE:
        with used, redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client:
            assert permissions.lacking(client, "trader", NO_NAMESPACE, 0, rq=False) == {}  # as doctor does
            partitions.look(client, NO_NAMESPACE, 16)  # the same
    assert used.commands - {"hello"} == set(re.findall(r"\+(\S+?)\)?(?= |$)", rule))
    assert producer.health().reason is None


def test_with_replicas_it_needs_what_the_table_says(
    admin: Any, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REPLICAS_TIMEOUT_MS", 20)  # there is none
    admin.execute_command("ACL", "SETUSER", "trader", *WITH_REPLICAS.split())
    admin.script_flush()
    used = Used(admin)
    with used, pytest.raises(StreamUnavailable, match="0 of 1 replicas have confirmed"):
        make(replicas=1).push(snapshot("a", 1), timeout=1)
    assert used.commands >= {word[1:] for word in WITH_REPLICAS.split()}


def test_one_that_may_not_see_how_many_partitions_there_are_does_not_claim_to_know(
    admin: Any, make: Callable[..., Any], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    agree(admin, OLD)
    admin.execute_command("ACL", "SETUSER", "trader", "-get")
    producer, name = make(), MOVING[0]
    with caplog.at_level(logging.WARNING):
        producer.push(snapshot(name, 1))
        assert "ACL SETUSER USER +get" in str(producer.health().reason)
        agree(admin, NEW)
        with RiskProducer(redis_url) as another:
            another.push(snapshot(name, 2))
        for number in range(3):
            producer.push(snapshot(name, 10 + number))
        fresh = make()
        for each in (producer, fresh):
            state = each.load(name)
            assert state.unanswered == ("redis",), state
            with pytest.raises(StateUnknown, match=r"how many partitions there are .*\+get"):
                each.load("new")
    health = producer.health()
    assert (health.backend, health.partitions, health.fenced) == ("postgres", 4, (name,))
    assert "ACL SETUSER USER +get" in str(health.reason)
    lines = [each.getMessage() for each in caplog.records if "number of partitions" in each.getMessage()]
    assert len(lines) == 2, "one of each producer"
    assert lines[0].startswith("The producer does not follow a change of the number of partitions: Redis")
    admin.execute_command("ACL", "SETUSER", "trader", "+get")
    producer.push(snapshot(MOVING[1], 1))
    wait_until(lambda: producer.health().partitions == 16, 10, "it follows")
    assert producer.health().reason is None
    state = producer.load(name)
    assert (state.snapshot.daily_pnl, state.unanswered) == (2, ())
    assert producer.load("new") is None


def test_the_first_one_may_not_agree_on_a_number(admin: Any, make: Callable[..., Any]) -> None:
    admin.execute_command("ACL", "SETUSER", "trader", "-setnx")
    producer = make()
    assert producer.save(snapshot("a", 1))
    wait_until(lambda: producer.health().backend == "memory", 10, "it waits")
    assert "start a worker, which does, or give the permission: ACL SETUSER USER +setnx" in str(
        producer.health().reason
    )
    agree(admin, NEW)
    assert producer.flush(30)
    assert producer.health().partitions == 16


def test_a_copy_that_cannot_be_read_leaves_it_open_whether_there_is_a_newer_state(
    admin: Any, make: Callable[..., Any]
) -> None:
    agree(admin, OLD)
    producer, name = make(), MOVING[0]
    producer.push(snapshot(name, 1))
    copy = Keys(OLD.places(name)[0]).partitioning
    for kind, *words in (("SET", "four"), ("RPUSH", "x")):
        admin.delete(copy)
        admin.execute_command(kind, copy, *words)
        state = producer.load(name)
        assert (state.snapshot.daily_pnl, state.unanswered) == (1, ("redis",))
        admin.delete(copy)
        admin.set(copy, OLD.text)
        assert producer.load(name).unanswered == ()
