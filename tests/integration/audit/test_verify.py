"""`riskstream verify` on real servers."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.threaded import RiskProducer
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit import verify as audit_verify
from risk_worker.cli import cli
from risk_worker.database.store import PostgresStore
from risk_worker.drain.loop import drain
from risk_worker.seal.sealer import WINDOWS, Sealer
from risk_worker.stream.source import StreamSource, connect
from tests.support.factory import START, payload, snapshot
from tests.support.servers import with_name

PARTITIONS = 2
SUMS = ("accepted", "stored", "dead", "conflated", "in_flight", "lost", "duplicates", "state_behind")


@pytest.fixture
def producer(redis_url: str) -> Iterator[RiskProducer]:
    with RiskProducer(redis_url, partitions=PARTITIONS) as opened:
        yield opened


class Verify:
    def __init__(self, redis_url: str, database_url: str) -> None:
        self._environ = {
            "REDIS_URL": redis_url,
            "POSTGRES_URL": database_url,
            "RISK_PARTITIONS": str(PARTITIONS),
        }

    def run(self, *arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(cli, ["verify", *arguments], env=self._environ | environ)

    def said(self, *arguments: str) -> dict[str, Any]:
        result = self.run("--json", *arguments)
        said: dict[str, Any] = json.loads(result.stdout)
        assert result.exit_code == (0 if said["reconciled"] else 1)
        return said

    def sums(self, *arguments: str) -> tuple[int, ...]:
        said = self.said(*arguments)
        return tuple(said[name] for name in SUMS)


@pytest.fixture
def verify(redis_url: str, database_url: str) -> Verify:
    return Verify(redis_url, database_url)


def drain_all(redis_url: str, database_url: str) -> None:
    for partition in range(PARTITIONS):
        with connect(redis_url) as client, PostgresStore(database_url) as store:
            source = StreamSource(client, [partition], batch_size=7, block_s=0.01)
            drain(source, store, stop=threading.Event(), over=source.is_empty)


def test_nothing_at_all_is_reconciled(verify: Verify) -> None:
    assert verify.sums() == (0,) * 8


def test_from_accepted_to_stored(
    verify: Verify, producer: RiskProducer, redis_url: str, database_url: str
) -> None:
    for number in range(1, 21):
        for trader in ("a", "b", "ü:c"):
            producer.save(snapshot(trader, number))
    assert producer.flush(30)
    assert verify.sums() == (60, 0, 0, 0, 60, 0, 0, 0)
    drain_all(redis_url, database_url)
    producer.push(snapshot("a", 21), timeout=30)
    assert verify.sums() == (61, 60, 0, 0, 1, 0, 0, 0)
    assert verify.sums("--trader", "ü:c") == (20, 20, 0, 0, 0, 0, 0, 0)
    text = verify.run("--trader", "a")
    assert "20 stored" in text.stdout and "1 in flight" in text.stdout
    assert "✓ Reconciled: nothing is lost, nothing is duplicated, every state is the newest." in text.stdout


def test_a_well_formed_entry_that_breaks_a_rule_is_counted_once_and_found_by_its_trader(
    verify: Verify, producer: RiskProducer, redis_client: redis.Redis, redis_url: str, database_url: str
) -> None:
    for number in (1, 2):
        producer.push(snapshot("a", number), timeout=30)
    keys = Keys(partition_of("a", PARTITIONS))
    newest: Any = redis_client.hget(keys.latest, "a")
    redis_client.delete(keys.snapshots)
    epoch = wire.decode(newest).epoch
    redis_client.xadd(keys.snapshots, {"s": wire.encode(snapshot("a", 1), epoch, 1)})
    too_long = newest.replace(b'"reason":""', b'"reason":"' + b"x" * 1_025 + b'"')
    redis_client.xadd(keys.snapshots, {"s": too_long})
    drain_all(redis_url, database_url)
    assert verify.sums() == (2, 1, 1, 0, 0, 0, 0, 0)
    listed = CliRunner().invoke(cli, ["dead", "list", "--trader", "a"], env={"POSTGRES_URL": database_url})
    assert f"a/{epoch}/2" in listed.output


def test_dead_conflated_and_foreign_are_accounted_for(
    verify: Verify, redis_url: str, redis_client: redis.Redis, database_url: str, db: psycopg.Connection
) -> None:
    db.execute("ALTER TABLE risk_state_history ADD CONSTRAINT no_poison CHECK (reason <> 'poison')")
    keys = Keys(partition_of("a", PARTITIONS))
    for seq, merged, reason in ((1, 0, ""), (4, 2, "poison"), (6, 1, ""), (7, 0, "poison"), (9, 1, "")):
        made = payload("a", seq, epoch=7, merged=merged, reason=reason)
        redis_client.xadd(keys.snapshots, {"s": made})
        redis_client.hset(keys.admitted, "7:a", seq)
    redis_client.xadd(keys.snapshots, {"s": b"\xff"})
    redis_client.xadd(keys.snapshots, {"x": "y", "z": "\0"})
    assert verify.sums() == (9, 0, 0, 4, 7, 0, 0, 0)
    drain_all(redis_url, database_url)
    assert verify.sums() == (9, 3, 4, 4, 0, 0, 0, 0)
    assert verify.said()["foreign"] == 2

    # A retry that was killed before it deleted the dead letter: stored, and no duplicate.
    db.execute("ALTER TABLE risk_state_history DROP CONSTRAINT no_poison")
    [(kept,)] = db.execute("SELECT payload FROM risk_dead_letter WHERE seq = 4").fetchall()
    db.execute("CREATE TABLE kept AS SELECT * FROM risk_dead_letter WHERE seq = 4")
    done = CliRunner().invoke(cli, ["dead", "retry", "--trader", "a"], env={"POSTGRES_URL": database_url})
    assert done.exit_code == 0
    assert verify.sums() == (9, 5, 2, 4, 0, 0, 0, 0)
    db.execute("INSERT INTO risk_dead_letter SELECT * FROM kept")
    assert verify.sums() == (9, 5, 2, 4, 0, 0, 0, 0)
    assert verify.said()["dead_but_stored"] == 1
    assert wire.decode(kept).merged == 2


def test_a_payload_that_json_of_postgres_refuses_is_counted(
    verify: Verify, redis_url: str, redis_client: redis.Redis, database_url: str, db: psycopg.Connection
) -> None:
    db.execute("ALTER TABLE risk_state_history ADD CONSTRAINT no_poison CHECK (reason <> 'poison')")
    refused = payload("a", 2, epoch=7, merged=1, reason="poison")[:-1] + b',"x":"\\u0000"}'
    redis_client.xadd(Keys(0).snapshots, {"s": refused})
    redis_client.hset(Keys(0).admitted, "7:a", 2)
    drain_all(redis_url, database_url)
    assert verify.sums() == (2, 0, 1, 1, 0, 0, 0, 0)


def test_lost_snapshots_are_named(
    verify: Verify, producer: RiskProducer, redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    for number in range(1, 11):
        producer.push(snapshot("a", number), timeout=30)
    stream = Keys(partition_of("a", PARTITIONS)).snapshots
    entries: Any = redis_client.xrange(stream)
    redis_client.xdel(stream, *(entries[at][0] for at in (2, 3, 9)))
    said = verify.said()
    assert tuple(said[name] for name in SUMS) == (10, 0, 0, 0, 7, 3, 0, 0)
    drain_all(redis_url, database_url)
    said = verify.said()
    assert tuple(said[name] for name in SUMS) == (10, 7, 0, 0, 0, 3, 0, 0)
    [epoch] = {gap.pop("epoch") for gap in said["gaps"]}
    assert said["gaps"] == [
        {"trader_id": "a", "from": 3, "to": 4},
        {"trader_id": "a", "from": 10, "to": 10},
    ]
    assert f"✗ a, epoch {epoch}: lost seq 3 to 4 (2)\n" in verify.run().stdout


def test_redis_restarted_empty(
    verify: Verify, producer: RiskProducer, redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    """What was in it is lost. The producer goes on, so the gap is named, and the system goes on as well."""
    for number in range(1, 6):
        producer.push(snapshot("a", number), timeout=30)
    drain_all(redis_url, database_url)
    for number in range(6, 9):
        producer.push(snapshot("a", number), timeout=30)
    redis_client.flushall()
    assert verify.sums() == (5, 5, 0, 0, 0, 0, 0, 0)  # Redis and Postgres do not know the three
    producer.push(snapshot("a", 9), timeout=30)
    assert verify.sums() == (9, 5, 0, 0, 1, 3, 0, 0)
    drain_all(redis_url, database_url)
    said = verify.said()
    assert (said["lost"], said["gaps"][0]["from"], said["gaps"][0]["to"]) == (3, 6, 8)


def test_a_state_that_is_behind_is_named(
    verify: Verify, producer: RiskProducer, redis_url: str, database_url: str, db: psycopg.Connection
) -> None:
    producer.push(snapshot("a", 1), timeout=30)
    producer.push(snapshot("a", 2), timeout=30)
    drain_all(redis_url, database_url)
    assert verify.sums()[-1] == 0
    db.execute("UPDATE risk_state SET seq = 1")
    assert verify.said()["states_behind"] == ["a"]
    db.execute("UPDATE risk_state SET seq = 2, daily_pnl = 7")
    assert verify.sums()[-1] == 1
    db.execute("DELETE FROM risk_state")
    assert verify.sums()[-1] == 1


def test_a_partition_that_is_no_longer_configured_is_looked_at_too(
    verify: Verify, redis_url: str, redis_client: redis.Redis
) -> None:
    with RiskProducer(redis_url, partitions=200) as producer:
        for number in range(20):
            producer.push(snapshot(f"t{number}"), timeout=30)
    assert verify.sums() == (20, 0, 0, 0, 20, 0, 0, 0)


def test_what_waits_in_other_partitions_than_the_environment_says_is_in_flight(
    verify: Verify, redis_url: str, redis_client: redis.Redis
) -> None:
    traders = {partition_of(f"t{number}", 8): f"t{number}" for number in range(100)}
    with RiskProducer(redis_url, partitions=8) as producer:
        for partition, count in ((1, 1), (3, 2), (7, 1)):
            for number in range(count):
                producer.push(snapshot(traders[partition], number), timeout=30)
    said = verify.said()  # whose RISK_PARTITIONS is 2
    assert (said["reconciled"], said["in_flight"]) == (True, 4)
    assert verify.said("--trader", traders[7])["in_flight"] == 1
    redis_client.xadd(Keys(255).snapshots, {"x": "by hand"})
    assert verify.said()["in_flight"] == 5


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_unknown_trader_is_a_finding(
    verify: Verify, producer: RiskProducer, option: tuple[str, ...]
) -> None:
    producer.push(snapshot("a"), timeout=30)
    done = verify.run("--trader", "nobody", *option)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "riskstream: neither Redis nor Postgres knows a snapshot of 'nobody'\n"


def test_duplicates_are_named(
    verify: Verify, producer: RiskProducer, redis_url: str, database_url: str, db: psycopg.Connection
) -> None:
    for number in range(1, 4):
        producer.push(snapshot("a", number), timeout=30)
    drain_all(redis_url, database_url)
    db.execute(
        "CREATE TEMP TABLE again AS SELECT * FROM risk_state_history WHERE seq = 2;"
        "UPDATE again SET recorded_at = recorded_at + interval '1 hour';"
        "INSERT INTO risk_state_history SELECT * FROM again"
    )
    assert verify.sums() == (3, 4, 0, 0, 0, 0, 1, 0)
    [duplicated] = verify.said()["epochs_with_duplicates"]
    assert duplicated == {"trader_id": "a", "epoch": duplicated["epoch"], "duplicates": 1}
    assert "1 stored more than once" in verify.run().stdout


def test_a_database_that_is_missing_says_what_to_do(verify: Verify, database_url: str) -> None:
    done = verify.run(POSTGRES_URL=with_name(database_url, "nowhere"))
    assert done.exit_code == 2
    assert "run createdb or check POSTGRES_URL" in done.stderr


@pytest.mark.parametrize("setting", ["REDIS_URL", "POSTGRES_URL"])
def test_without_a_server_nothing_is_known(
    verify: Verify, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_verify, "REDIS_WAIT_S", 0.5)
    monkeypatch.setattr(audit_verify, "MESSAGE_AFTER_S", 0.1)
    url = {"REDIS_URL": "redis://127.0.0.1:1/0", "POSTGRES_URL": "postgresql://x@127.0.0.1:1/x"}[setting]
    done = verify.run(**{setting: url})
    assert (done.exit_code, done.stdout) == (2, "")
    *waits, _ = done.stderr.splitlines()
    assert [text.partition(",")[0] for text in waits] == ["Waiting for Redis"] * (setting == "REDIS_URL")


def test_on_a_live_system_there_is_no_false_alarm(
    verify: Verify, producer: RiskProducer, redis_url: str, database_url: str
) -> None:
    stop = threading.Event()

    def push() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            producer.save(snapshot(f"t{number % 5}", number))
            stop.wait(0.002)  # as fast as it can, it leaves the others no time, and verify too much to read

    def keep_draining(partition: int) -> None:
        with connect(redis_url) as client, PostgresStore(database_url) as store:
            source = StreamSource(client, [partition], batch_size=50, block_s=0.05)
            drain(source, store, stop=stop, over=lambda: False)

    with ThreadPoolExecutor(1 + PARTITIONS) as threads:
        running = [threads.submit(push), *(threads.submit(keep_draining, each) for each in range(PARTITIONS))]
        try:
            seen = [verify.said() for _ in range(10)]
        finally:
            stop.set()
    for each in running:
        each.result()
    assert [(said["lost"], said["duplicates"], said["state_behind"]) for said in seen] == [(0, 0, 0)] * 10
    assert seen[-1]["accepted"] > seen[0]["accepted"]
    assert all(
        said["accepted"] == said["stored"] + said["dead"] + said["conflated"] + said["in_flight"]
        for said in seen
    )


@pytest.mark.parametrize("sealed", [0.0, 0.5, 0.9, 1.0])
def test_what_the_database_finds_is_what_counting_finds(
    database_url: str, db: psycopg.Connection, sealed: float
) -> None:
    """Epochs with gaps and overlaps of every kind, some of which cancel each other out in simple sums.

    sealed: which part of the rows, in no order, is counted by the totals of its seals.
    """
    chance = random.Random(1)
    expected, rows = {}, []
    for epoch in range(1, 481):
        pieces, seq = [], 0
        while seq < 12:
            merged = chance.choice([0, 0, 0, 1, 2])
            seq += merged + 1
            kept = epoch % 4 == 0 or chance.random() > 0.1
            if kept:
                pieces.append((seq - merged, seq))
            if epoch % 4 and chance.random() < 0.1:
                pieces.append((seq, seq))
        if not pieces:
            continue
        rows += [
            (epoch, last, last - first, START + timedelta(seconds=n), 5 * (chance.random() < sealed))
            for n, (first, last) in enumerate(pieces)
        ]
        covered = [number for first, last in pieces for number in range(first, last + 1)]
        missing = set(range(1, max(covered) + 1)) - set(covered)
        expected["a", epoch] = (len(missing), len(covered) - len(set(covered)), missing)
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO risk_state_history (trader_id, epoch, seq, merged, recorded_at, daily_pnl,"
            " drawdown_pct, current_equity, peak_equity, trading_paused, last_reset_time, stored_at)"
            " VALUES ('a', %s, %s, %s, %s, 0, 0, 0, 0, false, now(), now() - %s * interval '1 hour')",
            rows,
        )
    with Sealer(database_url, WINDOWS["1h"]) as sealer:
        assert sum(run.rows for run in sealer.seal()) == sum(hours > 0 for *_, hours in rows)
    ledger = audit_ledger.read(database_url)
    found = {
        key: (
            totals.missing,
            totals.duplicates,
            {number for first, last in totals.gaps for number in range(first, last + 1)},
        )
        for key, totals in ledger.epochs.items()
    }
    assert found == expected
