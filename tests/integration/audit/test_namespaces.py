"""Nothing that a desk writes into its own namespace changes what is counted for the traders of another."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys, partition_of
from tests.support.database import rows
from tests.support.desks import Desks
from tests.support.factory import snapshot

PARTITIONS = 2
SUMS = ("accepted", "stored", "dead", "conflated", "in_flight", "lost", "duplicates", "state_behind")
FORGED = 10**6


@pytest.fixture
def desks(environ: dict[str, str]) -> Desks:
    return Desks(environ, "desk1", "desk2", partitions=PARTITIONS)


def epoch_of(db: psycopg.Connection, trader: str) -> int:
    [(epoch,)] = rows(db, f"SELECT epoch FROM risk_state WHERE trader_id = '{trader}'")
    return int(epoch)


def test_the_totals_of_desks(desks: Desks) -> None:
    desks.push("desk1", "a", "b", count=3)
    desks.push("desk2", "c", count=2)
    assert desks.drain() == 8
    desks.push("desk2", "c")
    assert [desks.verify()[name] for name in SUMS] == [9, 8, 0, 0, 1, 0, 0, 0]
    assert [desks.verify("desk1")[name] for name in SUMS] == [6, 6, 0, 0, 0, 0, 0, 0]
    assert [desks.verify("desk2")[name] for name in SUMS] == [3, 2, 0, 0, 1, 0, 0, 0]
    alone = desks.run("verify", "--trader", "a", RISK_NAMESPACES="desk2")
    assert alone.exit_code == 1 and "'a' belongs to namespace desk1" in alone.output


def test_what_a_desk_forges_is_not_counted_for_anothers_trader(
    desks: Desks, client: Any, db: psycopg.Connection
) -> None:
    """Its user of Redis may write whatever it likes into its own keys, and knows the epoch of the other."""
    desks.push("desk1", "a", count=5)
    desks.drain()
    before = desks.verify("desk1")
    epoch = epoch_of(db, "a")
    keys = Keys(partition_of("a", PARTITIONS), "desk2")
    client.hset(keys.epochs, "a", epoch)
    client.hset(keys.admitted, f"{epoch}:a", FORGED)
    client.hset(keys.latest, "a", wire.encode(snapshot("a", reason="forged"), epoch, FORGED))
    client.hset(keys.behind, "a", FORGED)
    for seq in (3, 6, FORGED):
        client.xadd(keys.snapshots, {"s": wire.encode(snapshot("a", reason="forged"), epoch, seq)})
    client.xadd(keys.snapshots, {"s": b'{"trader_id":"a","epoch":%d,"seq":7,"v":1}' % epoch})
    waiting = desks.verify()
    assert waiting["reconciled"], waiting["problems"]
    assert (waiting["accepted"], waiting["in_flight"]) == (5, 4)
    assert desks.drain() == 4
    assert rows(db, "SELECT count(*), count(trader_id), count(epoch) FROM risk_dead_letter") == [(4, 0, 0)]
    assert rows(db, "SELECT seq, reason FROM risk_state_history WHERE reason = 'forged'") == []
    assert rows(db, "SELECT epoch, seq, reason FROM risk_state") == [(epoch, 5, "desk1")]
    after = desks.verify("desk1")
    assert after["epochs"] == before["epochs"]
    assert after["reconciled"], after["problems"]
    # Of the trader itself nothing has changed: not its next seq either, nor what is lost if something is.
    desks.push("desk1", "a")
    desks.drain()
    assert [desks.verify("desk1")[name] for name in ("accepted", "stored", "lost")] == [6, 6, 0]
    found = desks.verify()
    assert (found["reconciled"], found["dead"], found["foreign"]) == (True, 4, 4)


def test_a_loss_of_a_trader_is_not_hidden_by_another_desk(
    desks: Desks, client: Any, db: psycopg.Connection
) -> None:
    desks.push("desk1", "a", count=3)
    desks.drain()
    desks.push("desk1", "a")  # a new epoch
    own = Keys(partition_of("a", PARTITIONS), "desk1")
    lost = wire.decode(client.xrange(own.snapshots)[0][1][b"s"])
    client.delete(own.snapshots)
    other = Keys(own.partition, "desk2")
    client.xadd(other.snapshots, {"s": wire.encode(snapshot("a"), lost.epoch, 1)})
    assert desks.verify()["lost"] == 1
    desks.drain()
    assert desks.verify()["lost"] == 1
