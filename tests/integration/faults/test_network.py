"""Between the worker and its servers the network does what it likes; all is reconciled nevertheless."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.ledger import Ledger, draining
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

COMMIT = b"COMMIT\0"
"""The whole statement: a transaction begins as READ COMMITTED."""


@pytest.fixture
def to_postgres(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def to_redis(redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_url) as proxy:
        yield proxy


def test_an_answer_to_commit_that_is_lost_stores_nothing_twice(
    ledger: Ledger, to_postgres: Proxy, redis_url: str
) -> None:
    with draining(redis_url, to_postgres.url):
        ledger.report(20)
        wait_until(ledger.is_stored)
        to_postgres.question = COMMIT
        ledger.report(1)
        assert to_postgres.struck.wait(10)
        wait_until(ledger.is_stored)
    ledger.check(duplicates=1)


def test_a_commit_that_does_not_arrive_stores_nothing(
    ledger: Ledger, to_postgres: Proxy, redis_url: str
) -> None:
    with draining(redis_url, to_postgres.url):
        ledger.report(20)
        wait_until(ledger.is_stored)
        to_postgres.cut_at = COMMIT
        ledger.report(1)
        assert to_postgres.struck.wait(10)
        wait_until(ledger.is_stored)
    ledger.check(duplicates=0)


@pytest.mark.parametrize("answer", [True, False], ids=["answer lost", "question lost"])
@pytest.mark.parametrize("command", [b"EVALSHA", b"XREAD"], ids=["acknowledge", "read"])
def test_an_answer_of_redis_that_is_lost_is_asked_for_again(
    command: bytes, answer: bool, ledger: Ledger, to_redis: Proxy, database_url: str
) -> None:
    with draining(to_redis.url, database_url):
        ledger.report(20)
        wait_until(ledger.is_stored)
        if answer:
            to_redis.question = command
        else:
            to_redis.cut_at = command
        ledger.report(20)
        assert to_redis.struck.wait(10)
        wait_until(ledger.is_stored)
    ledger.check(duplicates=0)  # the client asks again by itself; nothing has to be read anew


@pytest.mark.parametrize("side", ["postgres", "redis"])
def test_a_connection_may_be_cut_after_any_byte(
    side: str, ledger: Ledger, to_postgres: Proxy, to_redis: Proxy
) -> None:
    proxy = {"postgres": to_postgres, "redis": to_redis}[side]
    with draining(to_redis.url, to_postgres.url, batch_size=20):
        for size in (*range(1, 1500, 149), *range(1500, 12_000, 701)):
            proxy.cut_after(size)
            ledger.report(20)
            wait_until(lambda: proxy.struck.is_set() or ledger.is_stored())
        proxy.heal()
        wait_until(ledger.is_stored)
    ledger.check()


@pytest.mark.parametrize("to_worker", [True, False], ids=["to the worker", "to the server"])
@pytest.mark.parametrize("side", ["postgres", "redis"])
def test_a_connection_may_be_closed_by_half(
    side: str, to_worker: bool, ledger: Ledger, to_postgres: Proxy, to_redis: Proxy
) -> None:
    proxy = {"postgres": to_postgres, "redis": to_redis}[side]
    with draining(to_redis.url, to_postgres.url):
        for _ in range(3):
            ledger.report(20)
            wait_until(ledger.is_stored)
            proxy.half_close(client=to_worker)
        ledger.report(20)
        wait_until(ledger.is_stored)
    ledger.check()


def test_a_slow_network_only_takes_longer(ledger: Ledger, to_postgres: Proxy, to_redis: Proxy) -> None:
    to_postgres.delay_s = to_redis.delay_s = 0.02
    with draining(to_redis.url, to_postgres.url):
        for _ in range(3):
            ledger.report(100)
            wait_until(ledger.is_stored)
    ledger.check(duplicates=0)


def test_servers_that_refuse_are_asked_again(ledger: Ledger, to_postgres: Proxy, to_redis: Proxy) -> None:
    with draining(to_redis.url, to_postgres.url):
        for proxy in (to_postgres, to_redis):
            ledger.report(20)
            wait_until(ledger.is_stored)
            proxy.refusing = True
            proxy.cut()
            ledger.report(20)
            proxy.heal()
            wait_until(ledger.is_stored)
    ledger.check()


def test_a_network_that_swallows_everything_between_worker_and_postgres(
    ledger: Ledger, to_postgres: Proxy, redis_url: str, db: psycopg.Connection
) -> None:
    with draining(redis_url, to_postgres.url):
        ledger.report(20)
        wait_until(ledger.is_stored)
        to_postgres.swallowing = True
        ledger.report(20)
        wait_until(lambda: not ledger.is_stored())
        to_postgres.heal()
        wait_until(ledger.is_stored)
    ledger.check()


@pytest.mark.slow
@pytest.mark.system
def test_a_network_that_swallows_everything_between_worker_and_redis(
    ledger: Ledger, to_redis: Proxy, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with draining(to_redis.url, database_url):
        ledger.report(20)
        wait_until(ledger.is_stored)
        to_redis.swallowing = True
        ledger.report(20)
        wait_until(lambda: "The worker cannot store" in caplog.text, 20, "the time-out")
        to_redis.heal()
        wait_until(ledger.is_stored)
    ledger.check()
