"""Redis forgets lives that are long over, and the books balance all the same."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from risk_producer.keys import Keys
from risk_producer.settings import Settings
from risk_producer.stream import Admission, Admit, Entry, TraderStream
from risk_producer.wire import encode
from risk_worker import jobs
from risk_worker.source import FORGET_PAGE, StreamSource, connect
from risk_worker.verify import Report, verify
from tests.support.books import drain_all
from tests.support.producers import snapshot

KEYS = Keys(0)
DAY_MS = 24 * 3600 * 1000
NOW_MS = int(time.time() * 1000)
OLD, YOUNG, NEWEST = NOW_MS - 31 * DAY_MS, NOW_MS - 29 * DAY_MS, NOW_MS - DAY_MS


@pytest.fixture
def client(redis_url: str) -> Any:
    with connect(redis_url) as connected:
        yield connected


def forget_all(client: Any) -> int:
    """Once through the whole hash."""
    source = StreamSource(client, 0)
    forgotten = source.forget()
    while client.get(KEYS.forget_cursor) != b"0":
        forgotten += source.forget()
    return forgotten


def test_only_what_is_old_and_not_the_newest_is_forgotten(client: Any) -> None:
    client.hset(KEYS.epochs, mapping={"a": NEWEST, "b:c": OLD, "ü": NEWEST})
    kept = {f"{NEWEST}:a": 1, f"{YOUNG}:a": 2, f"{OLD}:b:c": 3, f"{NEWEST}:ü": 4, "no life": 5}
    client.hset(
        KEYS.admitted, mapping=kept | {f"{OLD}:a": 6, f"{OLD - 1}:b:c": 7, f"{OLD}:ü": 8, "7:gone": 9}
    )
    assert forget_all(client) == 4
    assert client.hgetall(KEYS.admitted) == {name.encode(): b"%d" % seq for name, seq in kept.items()}
    assert forget_all(client) == 0


def test_a_call_looks_at_one_page(client: Any) -> None:
    client.hset(KEYS.admitted, mapping={f"{OLD + number}:a": 1 for number in range(10_000)})
    client.hset(KEYS.epochs, "a", OLD + 17)
    assert 0 < StreamSource(client, 0).forget() < 2 * FORGET_PAGE
    forget_all(client)
    assert client.hkeys(KEYS.admitted) == [b"%d:a" % (OLD + 17)]


def test_a_shift_forgets(
    client: Any, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("POSTGRES_URL", database_url)
    client.hset(KEYS.epochs, "a", NEWEST)
    client.hset(KEYS.admitted, mapping={f"{OLD}:a": 1, f"{NEWEST}:a": 1})
    jobs.drain_partition(0, until_empty=True)
    assert client.hkeys(KEYS.admitted) == [b"%d:a" % NEWEST]


class Trader:
    """A trader whose lives can be of any age."""

    def __init__(self, client: Any) -> None:
        self._stream = TraderStream(client)

    def call(self, epoch: int, first: int, last: int) -> Admit:
        entries = [
            Entry("a", epoch, seq, 0, encode(snapshot("a", seq), epoch, seq))
            for seq in range(first, last + 1)
        ]
        return Admit(KEYS, 1_000, entries)

    def send(self, call: Admit) -> Admission:
        return self._stream.admit(call)


def test_the_books_balance_and_a_zombie_stores_nothing_twice(
    client: Any, redis_url: str, database_url: str
) -> None:
    def books() -> Report:
        return verify(Settings(redis_url=redis_url, postgres_url=database_url))

    trader = Trader(client)
    batch = trader.call(OLD, 1, 10)
    trader.send(batch)
    trader.send(trader.call(NEWEST, 1, 5))
    before = books()
    drain_all(redis_url, database_url)
    assert forget_all(client) == 1
    assert books().problems == []
    assert books().totals == before.totals | {"stored": 15, "in_flight": 0}

    # The zombie of a month ago: its last batch once more, as if the answer had been lost, and what is new.
    assert trader.send(batch) == Admission(10, [("a", OLD)])
    assert trader.send(trader.call(OLD, 11, 12)).fenced == [("a", OLD)]
    drain_all(redis_url, database_url)
    assert books().problems == []
    assert books().totals["stored"] == 17
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
    assert [hole for life in verify(settings).lives for hole in life.holes] == [(4, 4), (10, 10)]
    forget_all(client)
    report = verify(settings)
    assert [hole for life in report.lives for hole in life.holes] == [(4, 4)], "but no longer that at its end"
    assert report.totals["accepted"] == 10
