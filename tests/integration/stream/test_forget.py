"""Redis forgets incarnations that are long over, and all is reconciled nevertheless."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import encode
from risk_producer.settings import Settings
from risk_producer.transport.requests import Admission, Admit, Claim, OutgoingEntry, TraderStream
from risk_worker.audit.reconcile import Report
from risk_worker.audit.verify import verify
from risk_worker.runtime import jobs
from risk_worker.stream.source import FORGET_PAGE, StreamSource
from tests.support.factory import snapshot
from tests.support.ledger import drain_all
from tests.support.redis import ask_one

KEYS = Keys(0)
DAY_MS = 24 * 3600 * 1000
NOW_MS = int(time.time() * 1000)
OLD, NEWEST = NOW_MS - 31 * DAY_MS, NOW_MS - DAY_MS
LONG_AGO, RECENTLY = NOW_MS - DAY_MS - 60_000, NOW_MS - DAY_MS // 2


def followed(client: Any, at_ms: int, *lives: str) -> None:
    """A newer epoch was given out after each of these, at that time."""
    client.rpush(KEYS.superseded, *[f"{at_ms} {life}" for life in lives])


def test_what_was_followed_by_a_newer_epoch_a_day_ago_is_forgotten(client: Any) -> None:
    client.hset(KEYS.epochs, mapping={"a": NEWEST, "b:c": 3, "ü\n": NEWEST})
    kept = {f"{NEWEST}:a": 1, "2:a": 2, "3:b:c": 3, f"{NEWEST}:ü\n": 4, "no life": 5}
    client.hset(KEYS.admitted, mapping=kept | {"1:a": 6, "1:b:c": 7, "1:ü\n": 8})
    followed(client, LONG_AGO, "1:a", "1:b:c", "3:b:c", "1:ü\n")  # epoch 3 of b:c is its newest again
    followed(client, RECENTLY, "2:a")
    assert StreamSource(client, [0]).forget() == 3
    assert client.hgetall(KEYS.admitted) == {name.encode(): b"%d" % seq for name, seq in kept.items()}
    assert client.lrange(KEYS.superseded, 0, -1) == [f"{RECENTLY} 2:a".encode()]
    assert StreamSource(client, [0]).forget() == 0


def test_what_may_still_be_in_the_stream_is_remembered(client: Any) -> None:
    client.hset(KEYS.admitted, mapping={"1:a": 1, "2:a": 1})
    followed(client, LONG_AGO, "1:a")
    followed(client, LONG_AGO + 2, "2:a")
    client.xadd(KEYS.snapshots, {"s": "x"}, id=f"{LONG_AGO + 1}-0")
    assert StreamSource(client, [0]).forget() == 1
    assert client.hkeys(KEYS.admitted) == [b"2:a"]
    client.xtrim(KEYS.snapshots, maxlen=0)
    assert StreamSource(client, [0]).forget() == 1


@pytest.mark.parametrize("bad", [b"", b"x", b"1 a", b"-1 1:a", b"9" * 400 + b" 1:a", b"\xff\0 1:a", b"1 :"])
def test_what_cannot_be_read_in_the_list_is_dropped_and_stops_nothing(client: Any, bad: bytes) -> None:
    client.hset(KEYS.admitted, mapping={"1:a": 1, "2:a": 1})
    client.rpush(KEYS.superseded, bad, f"{LONG_AGO} 2:a")
    assert StreamSource(client, [0]).forget() == 1
    assert client.hkeys(KEYS.admitted) == [b"1:a"]


def test_a_call_looks_at_one_page(client: Any) -> None:
    client.hset(KEYS.admitted, mapping={f"{number}:a": 1 for number in range(1, 2_501)})
    followed(client, LONG_AGO, *[f"{number}:a" for number in range(1, 2_501)])
    assert [StreamSource(client, [0]).forget() for _ in range(4)] == [FORGET_PAGE, FORGET_PAGE, 500, 0]


def test_a_claim_notes_the_epoch_that_it_follows(client: Any) -> None:
    stream = TraderStream(client)
    [first, second] = ask_one(stream, Claim(KEYS, [(1, "a"), (2, "a")]))
    [third] = ask_one(stream, Claim(KEYS, [(3, "a")]))
    notes = [note.decode().split(" ") for note in client.lrange(KEYS.superseded, 0, -1)]
    assert [life for _, life in notes] == [f"{first}:a", f"{second}:a"]
    assert client.hget(KEYS.epochs, "a") == str(third).encode()


def test_a_shift_forgets(
    client: Any, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("POSTGRES_URL", database_url)
    client.hset(KEYS.epochs, "a", NEWEST)
    client.hset(KEYS.admitted, mapping={f"{OLD}:a": 1, f"{NEWEST}:a": 1})
    followed(client, LONG_AGO, f"{OLD}:a")
    jobs.drain_share(0, 1, until_empty=True)
    assert client.hkeys(KEYS.admitted) == [b"%d:a" % NEWEST]


def test_a_new_producer_a_minute_leaves_a_bounded_trace(client: Any) -> None:
    """100 traders with a new producer each minute: what a day of it, which is remembered, takes."""
    stream = TraderStream(client)
    for _ in range(20):
        for trader in range(100):
            [epoch] = ask_one(stream, Claim(KEYS, [(0, f"trader-{trader}")]))
            assert isinstance(epoch, int)
            entry = OutgoingEntry(f"trader-{trader}", epoch, 1, 0, b"{}")
            ask_one(stream, Admit(KEYS, 10_000, [entry]))
    bytes_of_2000 = client.memory_usage(KEYS.admitted, samples=0) + client.memory_usage(
        KEYS.superseded, samples=0
    )
    a_day = bytes_of_2000 / 2_000 * 100 * 24 * 60
    assert a_day < 25e6, f"{a_day / 1e6:.1f} MB"


class Trader:
    """A trader whose lives can be of any age."""

    def __init__(self, client: Any) -> None:
        self._stream = TraderStream(client)

    def call(self, epoch: int, first: int, last: int) -> Admit:
        entries = [
            OutgoingEntry("a", epoch, seq, 0, encode(snapshot("a", seq), epoch, seq))
            for seq in range(first, last + 1)
        ]
        return Admit(KEYS, 1_000, entries)

    def send(self, call: Admit) -> Admission:
        return ask_one(self._stream, call)


def test_the_books_balance_and_a_zombie_stores_nothing_twice(
    client: Any, redis_url: str, database_url: str
) -> None:
    def reconciliation() -> Report:
        return verify(Settings(redis_url=redis_url, postgres_url=database_url))

    trader = Trader(client)
    batch = trader.call(OLD, 1, 10)
    trader.send(batch)
    trader.send(trader.call(NEWEST, 1, 5))
    before = reconciliation()
    drain_all(redis_url, database_url)
    followed(client, LONG_AGO, f"{OLD}:a")
    assert StreamSource(client, [0]).forget() == 1
    assert reconciliation().problems == []
    assert reconciliation().totals == before.totals | {"stored": 15, "in_flight": 0}

    # The zombie of a month ago: its last batch once more, as if the answer had been lost, and what is new.
    assert trader.send(batch) == Admission(10, [("a", OLD)])
    assert trader.send(trader.call(OLD, 11, 12)).fenced == [("a", OLD)]
    drain_all(redis_url, database_url)
    assert reconciliation().problems == []
    assert reconciliation().totals["stored"] == 17
    counters = {name: int(count) for name, count in client.hgetall(KEYS.counters).items()}
    assert counters[b"accepted"] == counters[b"stored"] == 27, "the counters balance, duplicates included"
    assert counters[b"duplicates"] == 10
    with psycopg.connect(database_url) as db:
        [state] = db.execute("SELECT epoch, seq FROM risk_state").fetchall()
    assert state == (NEWEST, 5)


def test_a_hole_in_a_forgotten_life_is_still_found(client: Any, redis_url: str, database_url: str) -> None:
    trader = Trader(client)
    trader.send(trader.call(OLD, 1, 10))
    trader.send(trader.call(NEWEST, 1, 1))
    entries = client.xrange(KEYS.snapshots)
    client.xdel(KEYS.snapshots, entries[3][0], entries[9][0])
    drain_all(redis_url, database_url)
    settings = Settings(redis_url=redis_url, postgres_url=database_url)
    assert [gap for epoch in verify(settings).epochs for gap in epoch.gaps] == [(4, 4), (10, 10)]
    followed(client, LONG_AGO, f"{OLD}:a")
    StreamSource(client, [0]).forget()
    report = verify(settings)
    assert [gap for epoch in report.epochs for gap in epoch.gaps] == [(4, 4)], "but no longer that at its end"
    assert report.totals["accepted"] == 10
