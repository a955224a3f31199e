"""What admission answers besides "admitted": behind and unreadable, by the real scripts on a real server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_producer.errors import StreamUnavailable
from risk_producer.transport.requests import Admission, Request
from tests.support.factory import snapshot
from tests.support.producers import Bench
from tests.support.wait import wait_until

KEYS = Keys(0)
AHEAD_MS = 1_000_000


def lose_and_restore(client: redis.Redis, epoch: int) -> int:
    """Redis loses its data, and a worker restores a greater epoch that Postgres knows."""
    client.flushdb()
    client.hset(KEYS.floors, "t1", epoch + AHEAD_MS)
    return epoch + AHEAD_MS


def test_behind_is_claimed_again_and_stored_once(bench: Bench, redis_client: redis.Redis) -> None:
    producer = bench.producer()
    producer.push(snapshot("t1", 1), timeout=30)
    floor = lose_and_restore(redis_client, bench.stored()[0].epoch)
    for pnl in (2, 3):
        assert producer.save(snapshot("t1", pnl))
    producer.push(snapshot("t2", 4), timeout=30)
    assert producer.flush(30)
    mine = [wire for wire in bench.stored() if wire.trader_id == "t1"]
    assert [(wire.daily_pnl, wire.seq) for wire in mine] == [(2, 1), (3, 2)]
    assert all(wire.epoch > floor for wire in mine)
    assert producer.health().fenced == ()
    assert producer.close()


def test_behind_after_a_lost_answer_stores_each_snapshot_once(
    bench: Bench, redis_client: redis.Redis
) -> None:
    producer = bench.producer()
    producer.push(snapshot("t1", 1), timeout=30)
    epoch = bench.stored()[0].epoch
    ask = producer.stream.ask
    admissions: list[Admission] = []

    def lose_the_answer(requests: Sequence[Request], **options: bool) -> list[Any]:
        """And Redis knows a greater epoch by the time at which the same is asked again."""
        replies: list[Any] = ask(requests, **options)
        admissions.extend(reply for reply in replies if isinstance(reply, Admission))
        if admissions == replies and len(admissions) == 1:
            redis_client.hdel(KEYS.epochs, "t1")
            redis_client.hset(KEYS.floors, "t1", epoch + AHEAD_MS)
            return [StreamUnavailable("the answer was lost")]
        return replies

    producer.stream.ask = lose_the_answer
    assert producer.save(snapshot("t1", 2))
    wait_until(lambda: admissions)
    producer.push(snapshot("t1", 3), timeout=30)
    assert [skipped.kind for skipped in admissions[1].skipped.values()] == ["behind"]
    stored = bench.stored()
    assert [(wire.daily_pnl, wire.seq) for wire in stored] == [(1, 1), (2, 2), (3, 1)]
    assert stored[0].epoch == stored[1].epoch == epoch < epoch + AHEAD_MS < stored[2].epoch
    assert producer.close()


def test_behind_with_a_spool_goes_to_history_and_says_so(
    bench: Bench, redis_client: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    producer = bench.producer(spool_dir=tmp_path)
    producer.push(snapshot("t1", 1), timeout=30)
    epoch = bench.stored()[0].epoch
    lose_and_restore(redis_client, epoch)
    for pnl in (2, 3):
        producer.push(snapshot("t1", pnl), timeout=30)
    assert [(wire.daily_pnl, wire.epoch, wire.seq) for wire in bench.stored()] == [
        (2, epoch, 2),
        (3, epoch, 3),
    ]
    assert redis_client.hget(KEYS.latest, "t1") is None, "the state in Postgres is the newer one"
    assert producer.health().fenced == ("t1",)
    assert "its state stays the newer one in Postgres" in caplog.text
    assert producer.close()


def test_unreadable_holds_back_one_trader_until_it_is_repaired(
    bench: Bench, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("risk_producer.session.sender.HOLD_S", 0.05)
    producer = bench.producer()
    producer.push(snapshot("t1", 1), timeout=30)
    field = f"{bench.stored()[0].epoch}:t1"
    redis_client.hset(KEYS.admitted, field, "abc")
    for pnl in (2, 3):
        assert producer.save(snapshot("t1", pnl))
    for pnl in (4, 5):
        producer.push(snapshot("t2", pnl), timeout=30)
    wait_until(lambda: "'t1' is held back" in (producer.health().reason or ""))
    assert not producer.flush(0.2)
    assert [wire.daily_pnl for wire in bench.stored()] == [1, 4, 5]
    redis_client.hset(KEYS.admitted, field, 1)
    assert producer.flush(30)
    assert sorted(wire.daily_pnl for wire in bench.stored()) == [1, 2, 3, 4, 5]
    assert [wire.seq for wire in bench.stored() if wire.trader_id == "t1"] == [1, 2, 3]
    assert producer.health().reason is None
    assert caplog.text.count("is held back") == 1
    assert producer.close()
