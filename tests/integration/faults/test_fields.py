"""Every key and field that the product reads from Redis, replaced by what it must not trust.

Only the trader concerned gets an error, which names the key and the command; nothing is lost or stored twice;
after the command all is stored, and verify is content.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import number_in
from risk_producer.contract.wire import decode, encode
from risk_producer.settings import Settings
from risk_producer.transport.requests import TraderStream
from risk_worker.audit.verify import verify
from risk_worker.cli import cli
from risk_worker.recovery.repair import KEPT
from risk_worker.stream.source import connect
from tests.support.factory import snapshot
from tests.support.ledger import drain_all, draining
from tests.support.senders import Sender
from tests.support.wait import wait_until

KEYS = Keys(0)
BAD = {
    "empty": b"",
    "text": b"abc",
    "negative": b"-1",
    "a fraction": b"1.5",
    "spaces": b" 5 ",
    "hexadecimal": b"0x10",
    "2^53": b"%d" % 2**53,
    "2^53-1": b"%d" % (2**53 - 1),
    "2^63": b"%d" % 2**63,
    "1e300": b"1e300",
    "nan": b"nan",
    "inf": b"inf",
    "no UTF-8": b"\xff\xfe\x00",
    "another's": b"",
    "1 MB": b"9" * 1024 * 1024,
    "a megabyte of text": b"x" * 1024 * 1024,
}
FIELDS = ("epochs", "admitted", "latest", "floors", "behind", "attempts", "failures", "latency_ms")
SHARED = {
    "counters": (
        "accepted",
        "stored",
        "dead",
        "foreign",
        "batches",
        "unreadable",
        "acknowledged_ms",
        "latency_sum_ms",
    ),
    "latency_buckets": ("1", "5", "+Inf"),
    "floors": ("",),
    "epochs": ("",),
    "admitted": ("",),
}
TYPES: dict[str, Callable[[Any, str], object]] = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}
KEYS_AND_TYPES = {
    **dict.fromkeys(("epochs", "admitted", "latest", "floors", "behind"), "hash"),
    **dict.fromkeys(("counters", "attempts", "failures", "latency_ms", "latency_buckets"), "hash"),
    "superseded": "list",
    "repairs": "stream",
    "snapshots": "stream",
}


@dataclass
class System:
    """Redis, Postgres, a worker that drains all the time."""

    client: Any
    redis_url: str
    database_url: str
    db: psycopg.Connection

    def repair(self, trader: str) -> str:
        environ = {"REDIS_URL": self.redis_url, "POSTGRES_URL": self.database_url}
        done = CliRunner().invoke(cli, ["repair", trader], env=environ)
        assert done.exit_code == 0, done.output
        return done.output

    def check(self, *senders: Sender) -> None:
        """All that was accepted is stored once, and nothing else; the state is the newest."""
        for sender in senders:

            def stored(sender: Sender = sender) -> bool:
                rows = self.db.execute(
                    "SELECT epoch, seq, daily_pnl FROM risk_state_history WHERE trader_id = %s ORDER BY 1, 2",
                    (sender.trader_id,),
                ).fetchall()
                return rows == sorted(sender.accepted)

            wait_until(stored, what=f"all of {sender.trader_id} once: {sorted(sender.accepted)[-3:]}")
            state = self.db.execute(
                "SELECT epoch, seq, daily_pnl FROM risk_state WHERE trader_id = %s", (sender.trader_id,)
            ).fetchone()
            assert state == max(sender.accepted)

    def verify(self) -> None:
        settings = Settings(redis_url=self.redis_url, postgres_url=self.database_url)
        assert verify(settings).problems == []


@pytest.fixture
def system(redis_url: str, database_url: str) -> Iterator[System]:
    with (
        connect(redis_url) as client,
        psycopg.connect(database_url, autocommit=True) as db,
        draining(redis_url, database_url),
    ):
        yield System(client, redis_url, database_url, db)


def name_of(name: str, sender: Sender) -> str:
    return f"{sender.epoch}:{sender.trader_id}" if name == "admitted" else sender.trader_id


def run_field_case(system: System, name: str, value: bytes | None, number: int) -> None:
    """value: None for that of another trader, which has sent more."""
    bad, good = Sender(system.client, f"bad-{number}"), Sender(system.client, f"good-{number}")
    bad.add(3)
    good.add(9)
    assert (bad.send(), good.send()) == (None, None)
    key = getattr(KEYS, name)
    if value is None:
        value = system.client.hget(key, name_of(name, good)) or b"%d" % (2**52)
    system.client.hset(key, name_of(name, bad), value)

    bad.add(3)
    good.add(3)
    assert good.send() is None, "the other trader sees nothing of it"
    reason = bad.send()
    unreadable = number_in(value) is None
    assert reason is not None or not (unreadable and name in ("admitted", "epochs"))
    if reason is not None:
        assert key in reason and f"riskstream repair {bad.trader_id}" in reason, reason
    if (
        name == "admitted"
    ):  # a newer epoch's state could not show any more that too much is said to be admitted
        system.repair(bad.trader_id)
    successor = Sender(system.client, bad.trader_id, numbered_from=100)
    successor.add(1)
    claimed = successor.send()  # what a restart at this moment would meet
    assert claimed is not None or not (unreadable and name in ("epochs", "floors"))
    if claimed is not None:
        assert key in claimed and f"riskstream repair {bad.trader_id}" in claimed, claimed
    assert len(system.client.hget(KEYS.latest, good.trader_id)) < 1_000

    system.repair(bad.trader_id)
    assert "nothing to repair" in system.repair(bad.trader_id)
    assert bad.send() is None
    assert successor.send() is None
    last = Sender(system.client, bad.trader_id, numbered_from=200)
    last.add(1, paused=True)
    assert last.send() is None
    assert not last.fenced
    bad.accepted += successor.accepted + last.accepted
    assert len(bad.accepted) == 8
    system.check(bad, good)
    payload = TraderStream(system.client).latest(KEYS, bad.trader_id).payload
    assert payload is not None and decode(payload).trading_paused


@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_field_costs_one_trader_a_clear_error(name: str, system: System) -> None:
    """Some of the values; RISK_TEST_FIELDS=all takes each of them."""
    chosen = list(BAD) if os.environ.get("RISK_TEST_FIELDS") else ["2^53-1", "no UTF-8", "another's"]
    for number, value in enumerate(chosen):
        run_field_case(system, name, None if value == "another's" else BAD[value], number)
    system.verify()


def test_counters_that_cannot_be_counted_hinder_nothing(system: System) -> None:
    number = 0
    for name, fields in SHARED.items():
        for field in fields:
            for value in BAD if os.environ.get("RISK_TEST_FIELDS") else ("no UTF-8",):
                system.client.hset(getattr(KEYS, name), field, BAD[value])
                sender = Sender(system.client, f"trader-{number % 3}-{name}-{field}-{value}")
                sender.add(2)
                assert sender.send() is None
                system.check(sender)
                number += 1
    system.verify()
    system.client.hset(KEYS.counters, mapping={"accepted": "x", "unreadable": "x"})
    system.client.hset(KEYS.attempts, "last", b"\xff")
    last = Sender(system.client, "last")
    last.add(2)
    assert last.send() is None
    system.check(last)
    wait_until(lambda: system.client.hget(KEYS.counters, "unreadable") not in (None, b"x"))
    assert system.client.hget(KEYS.attempts, "last") == b"2"


@pytest.mark.parametrize("name", KEYS_AND_TYPES)
def test_a_key_of_another_type_is_named_and_put_aside(
    name: str, redis_url: str, database_url: str, db: psycopg.Connection, client: Any
) -> None:
    key = getattr(KEYS, name)
    system = System(client, redis_url, database_url, db)
    kinds = [kind for kind in TYPES if kind != KEYS_AND_TYPES[name]]
    for kind in kinds if os.environ.get("RISK_TEST_FIELDS") else kinds[:1]:
        senders = [Sender(client, f"{kind}-{each}") for each in range(3)]
        for sender in senders:
            sender.add(2)
            assert sender.send() is None
        drain_all(redis_url, database_url)
        client.delete(key)
        TYPES[kind](client, key)
        if name != "snapshots":
            entry = {"s": encode(snapshot(f"{kind}-waits", 1), 1, 1)}
            client.xadd(KEYS.snapshots, entry)
            assert drain_all(redis_url, database_url) == 1, "what waits in the stream is stored all the same"
        for sender in senders:
            sender.add(2)
            reason = sender.send()
            assert reason is None or key in reason, reason
            newcomer = Sender(client, f"{kind}-new-{sender.trader_id}")
            newcomer.add(1)
            senders_reason = newcomer.send()
            assert senders_reason is None or key in senders_reason, senders_reason
        said = system.repair(senders[0].trader_id)
        assert key in said and "aside" in said
        records = [record for _, record in client.xrange(KEYS.repairs)]
        record = next(record for record in reversed(records) if b":aside:" in record[b"after"])
        assert (record[b"key"].decode(), record[b"trader"].decode()) == (key, senders[0].trader_id)
        assert client.type(record[b"after"]).decode() == kind and b"@" in record[b"by"]
        for sender in senders:
            assert sender.send() is None
        drain_all(redis_url, database_url)
        system.check(*senders)


def test_a_forged_entry_moves_no_state_and_does_not_fence_the_trader(
    system: System, database_url: str
) -> None:
    trader = Sender(system.client, "a")
    trader.add(2)
    assert trader.send() is None
    forged = [
        encode(snapshot("a", -777), epoch, 1) for epoch in (9 * 10**15, 2**53 - 2, (trader.epoch or 0) + 1)
    ]
    forged.append(forged[0].replace(b"9000000000000000", b"9000000000000000000"))
    for payload in forged:
        system.client.xadd(KEYS.snapshots, {"s": payload})
    trader.add(2)
    assert trader.send() is None
    assert not trader.fenced
    system.check(trader)

    def dead() -> list[Any]:
        return system.db.execute("SELECT reason, trader_id FROM risk_dead_letter").fetchall()

    wait_until(lambda: len(dead()) == len(forged), what="each of them a dead letter")
    assert sum("was not given out to this trader" in reason for reason, _ in dead()) == 3
    assert {trader_id for _, trader_id in dead()} <= {"a", None}
    done = CliRunner().invoke(cli, ["dead", "retry"], env={"POSTGRES_URL": database_url})
    assert done.exit_code == 1
    system.check(trader)
    wait_until(lambda: not system.client.xlen(KEYS.snapshots), what="all is acknowledged and counted")
    counters = {name: int(value) for name, value in system.client.hgetall(KEYS.counters).items()}
    assert counters[b"foreign"] == len(forged)
    taken_off = counters[b"stored"] + counters[b"dead"] + counters.get(b"conflated", 0)
    assert counters[b"accepted"] + counters[b"foreign"] == taken_off


def test_the_repairs_are_recorded_with_what_was_there_before(system: System) -> None:
    trader = Sender(system.client, "a")
    trader.add(2)
    assert trader.send() is None
    system.check(trader)
    bad = {KEYS.epochs: b"\xffabc", KEYS.latest: b"nonsense"}
    for key, value in bad.items():
        system.client.hset(key, "a", value)
    environ = {"REDIS_URL": system.redis_url, "POSTGRES_URL": system.database_url}
    dry = CliRunner().invoke(cli, ["repair", "a", "--dry-run"], env=environ)
    assert all(key in dry.output for key in bad)
    assert {key: system.client.hget(key, "a") for key in bad} == bad
    assert system.client.xlen(KEYS.repairs) == 0

    pipeline = system.client.pipeline()
    for number in range(KEPT):
        pipeline.xadd(KEYS.repairs, {"by": f"an earlier one, {number}"})
    pipeline.execute()
    began, _ = system.client.time()
    said = system.repair("a")
    assert system.client.xlen(KEYS.repairs) == KEPT, "the last ones are kept"
    records = system.client.xrevrange(KEYS.repairs, count=len(bad))
    assert {record[b"key"].decode(): record[b"before"] for _, record in records} == bad
    assert system.client.hget(KEYS.epochs, "a") == b"%d" % (trader.epoch or 0)
    assert decode(system.client.hget(KEYS.latest, "a")).seq == 2
    for record_id, record in records:
        assert int(record_id.partition(b"-")[0]) // 1000 >= began
        assert record[b"by"].decode() == f"{getpass.getuser()}@{socket.gethostname()}"
        assert (record[b"trader"], record[b"field"]) == (b"a", b"a")
        assert record[b"after"] == system.client.hget(record[b"key"], "a")
        assert record[b"why"].decode() in said
    newest, _ = records[0]
    assert "nothing to repair" in system.repair("a")
    assert system.client.xrevrange(KEYS.repairs, count=1)[0][0] == newest, "nothing changed, nothing recorded"
