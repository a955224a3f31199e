"""What verify makes of a Redis that holds what no producer and no worker wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_worker.cli import cli
from tests.support.factory import snapshot
from tests.support.ledger import drain_all

KEYS = Keys(0)


def verify(redis_url: str, database_url: str) -> tuple[int, dict[str, Any]]:
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url}
    done = CliRunner().invoke(cli, ["verify", "--json"], env=environ, catch_exceptions=False)
    text = CliRunner().invoke(cli, ["verify"], env=environ, catch_exceptions=False)
    assert text.exit_code == done.exit_code
    return done.exit_code, json.loads(done.stdout)


def admit(client: redis.Redis, trader: str, epoch: int, *seqs: int) -> None:
    """As a producer does."""
    for seq in seqs:
        client.xadd(KEYS.snapshots, {"s": wire.encode(snapshot(trader, seq), epoch, seq)})
        client.hset(KEYS.admitted, f"{epoch}:{trader}", seq)


@pytest.mark.parametrize(
    "value",
    [b"abc", b"", b"-1", b"1.5", b"1e3", b"9007199254740992", str(2**63).encode(), b"\xff", b"1" * 400],
)
def test_a_field_that_is_no_number_is_named_and_the_rest_is_verified(
    redis_url: str, redis_client: redis.Redis, database_url: str, value: bytes
) -> None:
    admit(redis_client, "a", 7, 1, 2)
    admit(redis_client, "b", 8, 1, 2, 3)
    redis_client.hset(KEYS.admitted, "7:a", value)
    drain_all(redis_url, database_url)
    status, said = verify(redis_url, database_url)
    assert status == 1
    assert (said["accepted"], said["stored"], said["lost"], said["reconciled"]) == (5, 5, 0, False)
    [finding] = said["findings"]
    assert finding.startswith("risk:{0}:admitted, field 7:a: ")
    assert finding.endswith("run riskstream repair a")
    assert len(finding) < 400


@pytest.mark.parametrize(
    "name", [b"\xff\xfe:a", b"7:\xff", b"abc:a", b"7", b"-7:a", b"7:", b"99999999999999999:a"]
)
def test_a_field_that_names_no_epoch_and_trader_is_named(
    redis_url: str, redis_client: redis.Redis, database_url: str, name: bytes
) -> None:
    admit(redis_client, "b", 8, 1)
    redis_client.hset(KEYS.admitted, name, 3)
    status, said = verify(redis_url, database_url)
    assert (status, said["accepted"], said["in_flight"], said["lost"]) == (1, 1, 1, 0)
    [finding] = said["findings"]
    assert "risk:{0}:admitted: the field" in finding and "names no epoch and trader" in finding


@pytest.mark.parametrize("name", ["admitted", "epochs", "behind", "snapshots"])
def test_a_key_of_the_wrong_type_is_named_and_the_rest_is_verified(
    redis_url: str, redis_client: redis.Redis, database_url: str, name: str
) -> None:
    admit(redis_client, "a", 7, 1, 2)
    drain_all(redis_url, database_url)
    key = f"risk:{{0}}:{name}"
    redis_client.delete(key)
    redis_client.set(key, "x")
    status, said = verify(redis_url, database_url)
    assert (status, said["stored"], said["lost"]) == (1, 2, 0)
    wanted = "stream" if name == "snapshots" else "hash"
    finding, *others = said["findings"]
    assert finding == f"{key} holds a string where a {wanted} is expected; riskstream repair puts it aside"
    # What that means for the partition is said too.
    assert [other.partition(":")[0] for other in others] == ["Partition 0 cannot be drained"] * (
        name == "snapshots"
    )


def test_an_epoch_that_is_no_number_and_a_trader_that_is_held_back_are_named(
    redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    redis_client.hset(KEYS.epochs, mapping={"a": "abc", "b": 7, "": "a text"})
    redis_client.hset("risk:{0}:behind", "c", "5")
    status, said = verify(redis_url, database_url)
    assert status == 1
    assert said["findings"] == [
        "risk:{0}:epochs, field a: abc is no number that can be counted with; run riskstream repair a",
        "c: Redis lost data, and which of its snapshots is the newest is not certain "
        "(risk:{0}:behind has 5); run riskstream repair c",
    ]


def test_entries_that_no_producer_sent_are_foreign_and_lose_nothing(
    redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    admit(redis_client, "a", 7, 1, 2)
    redis_client.xadd(KEYS.snapshots, {"s": wire.encode(snapshot("a", 9), 7, 500)})
    redis_client.xadd(KEYS.snapshots, {"s": wire.encode(snapshot("a", 9), 2**62, 3)})
    redis_client.xadd(KEYS.snapshots, {"s": b"rubbish"})
    status, said = verify(redis_url, database_url)
    assert (status, said["accepted"], said["foreign"], said["in_flight"], said["lost"]) == (0, 2, 3, 5, 0)


@pytest.mark.parametrize(("seq", "foreign"), [(2, 0), (3, 1), (900, 1)])
def test_a_dead_letter_with_an_identity_counts_once(
    redis_url: str, redis_client: redis.Redis, database_url: str, seq: int, foreign: int
) -> None:
    """As the worker writes one of an entry that breaks a rule: with trader, epoch and seq."""
    admit(redis_client, "a", 7, 1)
    drain_all(redis_url, database_url)
    redis_client.hset(KEYS.admitted, "7:a", 2)
    import psycopg

    with psycopg.connect(database_url) as db:
        db.execute(
            "INSERT INTO risk_dead_letter (stream, entry_id, reason, trader_id, epoch, seq, payload)"
            " VALUES ('s', '1-0', 'too long', 'a', 7, %s, %s)",
            (seq, b'{"merged":99999999999}'),
        )
    status, said = verify(redis_url, database_url)
    lost = 1 - (seq == 2)
    assert (status, said["accepted"], said["foreign"], said["stored"], said["dead"], said["lost"]) == (
        *(lost, 2, foreign, 1, 1, lost),
    )
    assert said["accepted"] + said["foreign"] == said["stored"] + said["dead"] + said["lost"]
