"""The series of each trader: which there are, and what they say."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import WireSnapshot
from risk_worker.monitor import traders as module
from risk_worker.monitor.page import Page
from risk_worker.monitor.traders import Shown, Traders
from tests.support.clock import FakeClock
from tests.support.factory import START, payload

DAY_S = 86_400.0


class Bench:
    """Traders on a fake Redis, and clocks that stand still."""

    def __init__(
        self, client: redis.Redis, shown: Shown = "risk", partitions: int = 1, **options: Any
    ) -> None:
        self.client = client
        self.clock, self.now = FakeClock(), FakeClock()
        self.now.now = START.timestamp()
        self.keys = [Keys(number) for number in range(partitions)]
        self.traders = Traders(shown, clock=self.clock, now=self.now, **options)
        self.unreadable: list[str] = []

    def send(self, trader_id: str, seq: int, partition: int = 0, **fields: Any) -> None:
        self.client.hset(self.keys[partition].latest, trader_id, payload(trader_id, seq, **fields))

    def pass_by(self, seconds: float) -> None:
        self.clock.now += seconds
        self.now.now += seconds

    def samples(self) -> dict[tuple[str, str], float]:
        """(name, trader or state) -> value."""
        page, self.unreadable = Page(), []
        self.traders.add_to(page, self.client, self.keys, self.unreadable)
        found = re.findall(r'^(\w+)\{(?:trader_id|state)="(.*?)".*\} (\S+)$', page.text(), re.M)
        assert len(found) == len({(name, label) for name, label, _ in found}), "a series comes once"
        return {(name, label): float(value) for name, label, value in found}

    def shown(self) -> set[str]:
        name = "risk_trader_last_snapshot_timestamp_seconds"
        return {trader for each, trader in self.samples() if each == name}


def test_the_risk_of_the_newest_snapshot(client: redis.Redis) -> None:
    bench = Bench(client)
    bench.send("a", 1, current_equity=99.5, drawdown_pct=2.5, daily_pnl=-1e300)
    bench.send("b", 2, trading_paused=True)
    got = bench.samples()
    assert got["risk_trader_equity", "a"] == 99.5
    assert got["risk_trader_drawdown_percent", "a"] == 2.5
    assert got["risk_trader_daily_pnl", "a"] == -1e300
    assert [got["risk_trader_paused", name] for name in "ab"] == [0, 1]
    assert got["risk_trader_last_snapshot_timestamp_seconds", "b"] == START.timestamp() + 2
    bench.send("a", 3, current_equity=7.0)
    got = bench.samples()
    assert (got["risk_trader_equity", "a"], got["risk_trader_paused", "b"]) == (7.0, 1)


@pytest.mark.parametrize("shown", ["off", "counts"])
def test_the_risk_is_shown_to_who_asks_for_it(client: redis.Redis, shown: Shown) -> None:
    bench = Bench(client, shown)
    bench.send("a", 1)
    client.hset(bench.keys[0].attempts, "a", 1)
    names = {name for name, _ in bench.samples()}
    assert not [name for name in names if "equity" in name or "paused" in name]
    assert (names == set()) == (shown == "off")


def test_a_trader_in_two_partitions_has_each_series_once(client: redis.Redis) -> None:
    """It moved when the number of partitions changed: its counts add up, and the newest state counts."""
    bench = Bench(client, partitions=3)
    bench.send("a", 9, partition=2, epoch=1, current_equity=1.0)
    bench.send("a", 1, partition=0, epoch=2, current_equity=2.0)
    for partition, count in ((0, 3), (2, 40)):
        client.hset(bench.keys[partition].attempts, "a", count)
        client.hset(bench.keys[partition].latency_ms, "a", f"{count}.5")
    got = bench.samples()
    assert got["risk_persist_latency_ms", "a"] == 3.5, "of the partition that it is in now"
    assert got["risk_trader_equity", "a"] == 2.0
    assert got["risk_persistence_attempts_total", "a"] == 43
    assert got["risk_traders", "shown"] == 1


def test_who_sent_nothing_for_long_is_left_out_until_it_sends_again(client: redis.Redis) -> None:
    bench = Bench(client, forget_after_s=DAY_S)
    bench.send("a", 1)
    bench.send("b", 1)
    assert bench.shown() == {"a", "b"}
    bench.pass_by(DAY_S - 1)
    bench.send("b", 2)
    assert bench.shown() == {"a", "b"}
    bench.pass_by(1)
    assert bench.shown() == {"b"}
    got = bench.samples()
    assert [got["risk_traders", state] for state in ("shown", "silent", "left_out")] == [1, 1, 0]
    bench.send("a", 2)
    assert bench.shown() == {"a", "b"}, "whatever its clock says"


def test_what_was_before_the_exporter_began_counts_by_recorded_at(client: redis.Redis) -> None:
    bench = Bench(client, forget_after_s=DAY_S)
    bench.send("old", 1)
    bench.now.now += 2 * DAY_S
    bench.send("ahead", 1, recorded_at=datetime(2150, 1, 1, tzinfo=UTC))
    assert bench.shown() == {"ahead"}
    bench.send("old", 2)  # records of the past: they arrive now
    assert bench.shown() == {"old", "ahead"}
    bench.pass_by(DAY_S)
    assert bench.shown() == set(), "a clock that is ahead keeps none for ever"


def test_without_a_bound_every_trader_stays(client: redis.Redis) -> None:
    bench = Bench(client)
    bench.send("a", 1)
    bench.pass_by(1e9)
    assert bench.shown() == {"a"}


def test_there_are_no_more_than_may_be(client: redis.Redis) -> None:
    """Who has series keeps them; a place that becomes free goes to who sent something last."""
    bench = Bench(client, most=2, forget_after_s=DAY_S)
    for name in "abcd":
        bench.send(name, 1)
        bench.pass_by(1)
    first = bench.shown()
    assert len(first) == 2
    for name in "abcd":
        bench.send(name, 2)
    assert bench.shown() == first
    assert bench.samples()["risk_traders", "left_out"] == 2
    bench.pass_by(DAY_S - 1)
    kept, late = min(first), min(set("abcd") - first)
    bench.send(kept, 3)
    bench.send(late, 3)
    bench.pass_by(1)
    assert bench.shown() == {kept, late}
    assert Bench(client, most=0).shown() == set()


def test_what_has_not_changed_is_not_decoded_again(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(client)
    for number in range(2_500):  # some pages
        bench.send(f"t{number}", 1)
    assert len(bench.shown()) == 2_500
    decoded: list[bytes] = []

    def decode(raw: bytes) -> WireSnapshot:
        decoded.append(raw)
        return wire.decode(raw)

    monkeypatch.setattr(module, "decode", decode)
    bench.send("t7", 2)
    assert len(bench.shown()) == 2_500
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"\xff\xfe", b"nonsense", payload("other", 1), payload("a", 1)[:-1], b"[" * 10_000]
)
def test_a_snapshot_that_cannot_be_read_is_named_and_the_counts_are_shown(
    client: redis.Redis, raw: bytes
) -> None:
    bench = Bench(client)
    client.hset(bench.keys[0].latest, "a", raw)
    client.hset(bench.keys[0].attempts, "a", 5)
    bench.send("b", 1)
    for _ in range(2):  # named again while it is so, though nothing has changed
        got = bench.samples()
        assert got["risk_persistence_attempts_total", "a"] == 5
        assert ("risk_trader_equity", "a") not in got
        assert ("risk_trader_equity", "b") in got
        [named] = bench.unreadable
        assert "'a'" in named


@pytest.mark.parametrize("name", ['q"', "back\\slash", "new\nline", "größer ✋", "\r", "{}", ""])
def test_any_name_is_a_label(client: redis.Redis, name: str) -> None:
    client.hset(Keys(0).attempts, name, 1)
    page = Page()
    Traders().add_to(page, client, [Keys(0)], [])
    found = [
        sample.labels["trader_id"]
        for family in text_string_to_metric_families(page.text())
        for sample in family.samples
        if sample.name == "risk_persistence_attempts_total"
    ]
    assert found == ([name] if name else []), "the field without a name is no trader"
