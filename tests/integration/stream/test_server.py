"""What a server of Redis says of itself, and whether it takes writes: asked of real ones with real faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from risk_devkit.embedded import EmbeddedValkey
from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.transport.connect import RedisClient, redis_client
from risk_worker.stream.server import ServerFacts, look, refusals, why_refused
from tests.conftest import MakeValkey
from tests.support.servers import server_folder
from tests.support.wait import wait_until

KEYSPACE = Keyspace("desk1")
PARTITIONS = [KEYSPACE.keys(partition) for partition in range(4)]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with server_folder() as folder, EmbeddedValkey(folder, appendfsync="always") as running:
        yield running


@pytest.fixture
def admin(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    """May do everything; what tests set is undone."""
    with redis.Redis.from_url(server.url) as client:
        kept = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "save")}
        yield client
        client.replicaof("no", "one")
        client.config_set("min-replicas-to-write", 0)
        for name, value in kept.items():
            client.config_set(name, value)
        client.acl_deluser("probe")
        client.flushall()


def connect(url: str, timeout_s: float = 2.0) -> RedisClient:
    return redis_client(url, answer_timeout_s=timeout_s, connect_timeout_s=timeout_s)


def only(url: str) -> ServerFacts:
    with connect(url) as client:
        [found] = look(client, PARTITIONS)
    return found


def test_a_server_tells_what_it_is(server: EmbeddedValkey, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", "200mb")
    admin.config_set("maxmemory-policy", "noeviction")
    found = only(server.url)
    assert found.address == f"127.0.0.1:{server.port}"
    assert found.partitions == (0, 1, 2, 3)
    assert found.refusal is None
    assert not found.away
    assert (found.version or "").startswith("Valkey ")
    assert found.role == "master"
    assert found.memory_limit == 200 * 1024**2
    assert 0 < (found.memory_used or 0) < 200 * 1024**2
    assert 0 < (found.memory_share or 0) < 1
    assert found.eviction_policy == "noeviction"
    assert found.appendonly is True
    assert found.persistence == "append-only file (fsync always)" + (", RDB" if found.rdb else "")
    assert refusals([found]) == []


def test_what_has_no_limit_says_so(server: EmbeddedValkey, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", 0)
    admin.config_set("save", "")
    found = only(server.url)
    assert (found.memory_limit, found.memory_share, found.rdb) == (None, None, False)


def test_the_probe_leaves_nothing_behind(server: EmbeddedValkey, admin: redis.Redis) -> None:
    before = admin.info("persistence")["rdb_changes_since_last_save"]
    with connect(server.url) as client:
        for _ in range(3):
            assert refusals(look(client, PARTITIONS)) == []
    assert admin.dbsize() == 0
    assert admin.info("persistence")["rdb_changes_since_last_save"] == before, "nor is anything replicated"
    admin.xadd(PARTITIONS[0].write_probe, {"s": "x"})  # somebody made the key all the same
    only(server.url)
    assert admin.xlen(PARTITIONS[0].write_probe) == 0


def full(admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)


def replica(admin: redis.Redis) -> None:
    admin.replicaof("127.0.0.1", "1")  # nobody listens there


def lonely(admin: redis.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (full, "it uses all the memory that its maxmemory allows (OOM"),
        (replica, "it is a replica"),
        (lonely, "fewer replicas than min-replicas-to-write asks for (NOREPLICAS"),
    ],
)
def test_why_it_takes_no_writes(
    server: EmbeddedValkey, admin: redis.Redis, fault: Callable[[redis.Redis], None], says: str
) -> None:
    fault(admin)
    found = only(server.url)
    assert says in (found.refusal or "")
    assert f"Redis at 127.0.0.1:{server.port} takes no writes" in (found.refusal or "")
    assert not found.away
    assert found.memory_used, "everything else is known"


def test_the_disk_cannot_be_written(make_valkey: MakeValkey) -> None:
    server = make_valkey(save="3600 1000")
    with redis.Redis.from_url(server.url) as admin:
        folder = Path(admin.config_get("dir")["dir"])
        (folder / admin.config_get("dbfilename")["dbfilename"]).mkdir()  # no file can replace it
        admin.bgsave()
        wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
        found = only(server.url)
        admin.config_set("save", "")  # else it would not stop: it tries to save
    assert "could not write its data to the disk (MISCONF" in (found.refusal or "")


def test_a_password_that_is_missing_or_wrong(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "geheim")
    assert "it asks for a password" in (only(server.url).refusal or "")
    wrong = server.url.replace("redis://", "redis://:falsch@")
    found = only(wrong)
    assert "refuses the user or the password" in (found.refusal or "")
    assert found.away
    assert "falsch" not in (found.refusal or "")
    with redis.Redis(port=server.port, password="geheim") as admin:
        admin.config_set("requirepass", "")


def test_a_user_that_may_not_ask_much(server: EmbeddedValkey, admin: redis.Redis) -> None:
    """What it may not ask is not known; a probe that it may not write is a refusal."""
    url = server.url.replace("redis://", "redis://probe:p@")
    user: Any = admin
    user.execute_command("ACL", "SETUSER", "probe", "on", ">p", "~desk1:risk:*", "-@all", "+xadd", "+info")
    found = only(url)
    assert (found.refusal, found.rdb, found.appendfsync) == (None, None, None)
    assert found.memory_used
    assert found.persistence == "append-only file"
    user.execute_command("ACL", "SETUSER", "probe", "-info")
    found = only(url)
    assert (found.refusal, found.version, found.persistence) == (None, None, None)
    user.execute_command("ACL", "SETUSER", "probe", "-xadd")
    assert "the user may not do it" in (only(url).refusal or "")


def test_one_that_is_gone_or_says_nothing(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    with connect(server.url, timeout_s=0.3) as client:
        assert not look(client, PARTITIONS)[0].away
        server.pause()
        began = time.monotonic()
        [found] = look(client, PARTITIONS)
        assert time.monotonic() - began < 5
        assert found.away
        assert "does not answer" in (found.refusal or "")
        server.resume()
        server.kill()
        [found] = look(client, PARTITIONS)
    assert found.away
    assert found.partitions == (0, 1, 2, 3)
    assert "Look whether it runs" in (found.refusal or "")


def test_without_partitions_nothing_is_asked(server: EmbeddedValkey) -> None:
    with connect(server.url) as client:
        assert look(client, []) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("LOADING Redis is loading the dataset in memory", "it is loading its data from disk"),
        ("CLUSTERDOWN The cluster is down", "the Redis Cluster is down there"),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "lost its master",
        ),
        ("ERR unknown command 'XADD'", "takes no writes (ERR unknown command 'XADD')"),
        ("line\nof  two", "takes no writes (line of two)"),
        ("", "takes no writes (ResponseError)"),
    ],
)
def test_the_sentences(answer: str, says: str) -> None:
    sentence = why_refused(ResponseError(answer), "h:1")
    assert says in sentence
    assert "Redis at h:1" in sentence
    assert "\n" not in sentence


def test_the_key_of_the_probe_is_of_its_partition() -> None:
    assert Keys(3, "desk1").write_probe == "desk1:risk:{3}:write-probe"
