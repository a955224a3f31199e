"""Clocks that are wrong, with Redis emptied in between.

Nothing that was accepted is a dead letter, and the state is the newest that was accepted, or it is said that
it cannot be known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import cycle, product
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import script
from risk_producer.contract.wire import decode
from risk_producer.errors import StreamUnavailable
from risk_producer.settings import Settings
from risk_producer.transport.requests import TraderStream
from risk_worker.audit.verify import verify
from risk_worker.database import migrations
from risk_worker.recovery.floors import Floors
from risk_worker.stream import source
from risk_worker.stream.source import connect
from tests.conftest import MakePostgres, MakeValkey
from tests.support.agreed import agreed_on
from tests.support.ledger import drain_all
from tests.support.senders import Sender

KEYS = Keys(0)
SECOND, HOUR, DAY = 1, 3600, 86_400
OFFSETS = (-2 * DAY, -HOUR, -SECOND, HOUR, 2 * DAY)
Restored = Literal["before the claim", "before the first snapshot", "after the first snapshot"]
MOMENTS: tuple[Restored, ...] = ("before the claim", "before the first snapshot", "after the first snapshot")


@dataclass(frozen=True)
class Clocks:
    """Seconds that each is off; redis_before: until Redis is emptied."""

    trader: int = 0
    redis_before: int = 0
    redis: int = 0
    worker: int = 0


def in_pairs() -> Iterator[Clocks]:
    """One at a time and in pairs."""
    names = ("trader", "redis_before", "redis", "worker")
    for at, name in enumerate(names):
        for offset in OFFSETS:
            yield Clocks(**{name: offset})
            for other, other_offset in product(names[at + 1 :], OFFSETS):
                yield Clocks(**{name: offset, other: other_offset})


class ShiftedSender(Sender):
    """A producer whose Redis has a clock that is off."""

    def __init__(self, client: Any, trader_id: str, offset_s: int, **options: Any) -> None:
        super().__init__(client, trader_id, **options)
        shifted = f"(function() local t = redis.call('TIME') return {{ t[1] + {offset_s}, t[2] }} end)()"
        self._stream._claim = client.register_script(
            script("risk_producer.transport", "epochs", "claim").replace("redis.call('TIME')", shifted)
        )


@contextmanager
def worker_clock(offset_s: int) -> Iterator[None]:
    """The worker's datetime.now() is off."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=offset_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "datetime", Shifted)
        yield


class Scenario:
    """A trader is started three times; before the second time Redis is emptied, and clocks are other ones."""

    def __init__(self, name: str, database_url: str, clocks: Clocks, restored: Restored) -> None:
        self._name = name
        self._database_url = database_url
        self._clocks = clocks
        self._restored = restored
        self._accepted: list[tuple[int, int, float]] = []

    def run(self, before: str, after: str, *, shift: bool) -> None:
        """before, after: URLs of Redis. shift: whether the claims' clock has to be shifted here."""
        agreed_on(self._database_url)
        with worker_clock(self._clocks.worker):
            with connect(before) as client:
                first = self._start(client, self._clocks.redis_before if shift else 0, 1)
                self._send(first, 3)
                drain_all(before, self._database_url)
                client.flushdb()
            with connect(after) as client, Floors(client, self._database_url, 0) as floors:
                client.flushdb()
                shift_s = self._clocks.redis if shift else 0
                self._load(client, certain=False)
                second = self._start(client, shift_s, 100)
                if self._restored == "before the claim":
                    floors.compare()
                    self._load(client)
                    self._send(second, 2, paused=True)
                elif self._restored == "before the first snapshot":
                    second.claim()
                    floors.compare()
                    self._load(client)
                    self._send(second, 2, paused=True)
                else:
                    self._send(second, 2, paused=True)
                    self._load(client, certain=False)
                    drain_all(after, self._database_url)
                    floors.compare()
                self._load(client, certain=self._restored != "after the first snapshot")
                third = self._start(client, shift_s, 200)
                self._send(third, 1, paused=True)
                drain_all(after, self._database_url)
                floors.compare()
                self._load(client)
                self._check()

    def _start(self, client: Any, offset_s: int, numbered_from: int) -> Sender:
        return ShiftedSender(client, self._name, offset_s, numbered_from=numbered_from)

    def _send(self, sender: Sender, count: int, *, paused: bool = False) -> None:
        sender.add(count, paused=paused, recorded_off_s=self._clocks.trader)
        assert sender.send() is None
        assert not sender.fenced
        self._accepted += sender.accepted[len(sender.accepted) - count :]

    def _load(self, client: Any, *, certain: bool = True) -> None:
        """What load() would answer is the newest that was accepted, or that it cannot be known."""
        stream = TraderStream(client)
        if not certain:
            with suppress(StreamUnavailable):  # it cannot be known
                assert not stream.latest(KEYS, self._name).restored or self._is_newest(stream)
        else:
            assert stream.latest(KEYS, self._name).restored
            assert self._is_newest(stream)

    def _is_newest(self, stream: TraderStream) -> bool:
        payload = stream.latest(KEYS, self._name).payload
        return payload is not None and decode(payload).daily_pnl == self._accepted[-1][2]

    def _check(self) -> None:
        with psycopg.connect(self._database_url) as db:
            rows = db.execute(
                "SELECT epoch, seq, daily_pnl FROM risk_state_history WHERE trader_id = %s ORDER BY 1, 2",
                (self._name,),
            ).fetchall()
            [(state, paused)] = db.execute(
                "SELECT daily_pnl, trading_paused FROM risk_state WHERE trader_id = %s", (self._name,)
            ).fetchall()
            dead = db.execute("SELECT * FROM risk_dead_letter").fetchall()
        assert rows == sorted(self._accepted)
        assert (state, paused) == (self._accepted[-1][2], True)
        assert dead == []


def run_all(cases: list[tuple[Clocks, Restored]], redis_url: str, database_url: str) -> None:
    for number, (clocks, restored) in enumerate(cases):
        try:
            Scenario(f"trader-{number}", database_url, clocks, restored).run(redis_url, redis_url, shift=True)
        except Exception as error:
            error.add_note(f"{clocks}, restored {restored}")
            raise
    assert verify(Settings(redis_url=redis_url, postgres_url=database_url)).problems == []


def test_wrong_clocks_cost_nothing_that_was_accepted(redis_url: str, database_url: str) -> None:
    """Some of the pairs; RISK_TEST_CLOCKS=all takes all of them, 510 runs."""
    cases = list(product(in_pairs(), MOMENTS))
    run_all(cases if os.environ.get("RISK_TEST_CLOCKS") else cases[::61], redis_url, database_url)


def test_a_clock_that_is_far_off_is_worth_a_warning_and_nothing_else(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(redis_url) as client:
        for trader, off_s in (("a", 2 * DAY), ("b", -2 * DAY), ("c", HOUR)):
            sender = Sender(client, f"{trader}-of-a-wrong-clock")
            sender.add(20, recorded_off_s=off_s)
            assert sender.send() is None
        drain_all(redis_url, database_url)
    said = [record.getMessage() for record in caplog.records if record.name == "riskstream.clocks"]
    assert len([each for each in said if "'a-of-a-wrong-clock' 2.0 days ahead" in each]) == 1
    assert len([each for each in said if "'b-of-a-wrong-clock' 2.0 days behind" in each]) == 1
    assert not [each for each in said if "c-of" in each]
    with psycopg.connect(database_url) as db:
        assert db.execute("SELECT count(*) FROM risk_state_history").fetchone() == (60,)
        assert db.execute("SELECT count(*) FROM risk_dead_letter").fetchone() == (0,)


@contextmanager
def another_clock(offset_s: int) -> Iterator[None]:
    """What is started here has a clock that is off, by Debian's libfaketime."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert libraries, "apt install faketime"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(libraries[0]))
        patch.setenv("FAKETIME", f"{offset_s:+d}")
        patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield


@pytest.mark.system
@pytest.mark.timeout(900)
def test_servers_whose_clocks_are_wrong_cost_nothing_that_was_accepted(
    make_valkey: MakeValkey, make_postgres: MakePostgres
) -> None:
    """One Redis is replaced by another that is empty, each with a clock of its own; so has Postgres."""
    urls, databases = {}, {}
    for offset_s in (0, *OFFSETS):
        with another_clock(offset_s):
            urls[offset_s] = make_valkey(appendfsync="no").url
            databases[offset_s] = make_postgres().url
        migrations.up(databases[offset_s])
        with redis.Redis.from_url(urls[offset_s]) as client, psycopg.connect(databases[offset_s]) as db:
            time: Any = client.time()
            assert abs(time[0] - datetime.now(UTC).timestamp() - offset_s) < 60, "libfaketime has no effect"
            [[now]] = db.execute("SELECT now()").fetchall()
            assert abs((now - datetime.now(UTC)).total_seconds() - offset_s) < 60, "libfaketime has no effect"
    cases = product(urls, urls, (0, -2 * DAY, 2 * DAY), MOMENTS)
    for number, ((before, after, trader, restored), database) in enumerate(
        zip(cases, cycle(databases.values()), strict=False)
    ):
        clocks = Clocks(trader=trader, redis_before=before, redis=after)
        Scenario(f"trader-{number}", database, clocks, restored).run(urls[before], urls[after], shift=False)
