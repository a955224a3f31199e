"""A bound handle never raises in a trading loop because of a field; last_reset_time is carried on."""

from __future__ import annotations

import asyncio
import logging
import math
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, InvalidSnapshot, RiskProducer
from risk_producer.bound import SnapshotFields
from tests.support.factory import snapshot
from tests.support.producers import Bench
from tests.support.redis import stream_of

FIELDS: SnapshotFields = {"daily_pnl": 1.0, "drawdown_pct": 0.0, "current_equity": 1.0, "peak_equity": 1.0}
T1, T2, T3 = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"daily_pnl": math.nan}, "daily_pnl must be a finite number"),
    ({"trading_paused": True, "paused_until": datetime(2026, 1, 1)}, "paused_until must be a datetime"),  # noqa: DTZ001
    ({"drawdwn_pct": 1.0}, "drawdwn_pct"),
    ({"trader_id": "t8"}, "trader_id"),
    ({"peak_equity": ...}, "peak_equity"),
]


@pytest.mark.parametrize(("changes", "reason"), REJECTED)
def test_a_field_that_breaks_a_rule_raises_nothing_in_the_loop(
    changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_producer.contract.rejected._reported", {})
    fields: Any = {name: value for name, value in {**FIELDS, **changes}.items() if value is not ...}
    registry = CollectorRegistry()
    with RiskProducer(persistent=False, registry=registry) as producer:
        before = registry.get_sample_value("risk_producer_invalid_total")
        trader = producer.bind("t7")
        assert [trader.save(**fields) for _ in range(3)] == [False] * 3
        assert producer.health().rejected == 3
        assert trader.load() is None
        assert registry.get_sample_value("risk_producer_invalid_total") == (before or 0) + 3
        with pytest.raises(InvalidSnapshot, match=reason):
            trader.push(**fields)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "trader 't7'" in record.getMessage()
    assert reason in record.getMessage()


def test_the_asyncio_handle_answers_alike() -> None:
    async def scenario() -> None:
        async with AsyncRiskProducer(persistent=False, registry=CollectorRegistry()) as producer:
            trader = producer.bind("t7")
            assert not await trader.save(**(FIELDS | {"daily_pnl": math.inf}))
            assert producer.health().rejected == 1
            with pytest.raises(InvalidSnapshot):
                await trader.push(**(FIELDS | {"daily_pnl": math.inf}))
            with pytest.raises(InvalidSnapshot, match="trader_id must be a text, got 7"):
                await producer.load(7)  # type: ignore[arg-type]
            with pytest.raises(InvalidSnapshot, match="trader_id must be a text, got 7"):
                producer.bind(7)  # type: ignore[arg-type]

    asyncio.run(scenario())


@pytest.mark.parametrize("trader_id", [7, None, b"t1", "", "x" * 256, "a\0"])
def test_a_trader_needs_a_name(trader_id: Any) -> None:
    with RiskProducer(persistent=False, registry=CollectorRegistry()) as producer:
        for ask in (producer.load, producer.bind):
            with pytest.raises(InvalidSnapshot, match="trader_id must"):
                ask(trader_id)


async def what_a_type_checker_sees(threaded: RiskProducer, on_loop: AsyncRiskProducer) -> None:
    """Not called: mypy reads it in `make check`, and an ignored error that it does not find is one itself."""
    trader = threaded.bind("x")
    trader.save(daily_pnl=1, drawdown_pct=0.5, current_equity=1, peak_equity=1, reason="as it should be")
    trader.push(timeout=1, daily_pnl=1, drawdown_pct=0.5, current_equity=1, peak_equity=1)
    trader.save(drawdwn_pct=1)  # type: ignore[call-arg]
    trader.save(daily_pnl="1", drawdown_pct=0.5, current_equity=1, peak_equity=1)  # type: ignore[arg-type]
    await on_loop.bind("x").push(daily_pnl=1, drawdown_pct=0.5, current_equity=1)  # type: ignore[call-arg]


def test_a_type_checker_sees_a_misspelt_field() -> None:
    """In the function above; strict is what makes an ignore without an error an error."""
    mypy = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["mypy"]
    assert mypy["strict"]
    assert "tests" in mypy["files"]
    assert "warn_unused_ignores" not in mypy


# last_reset_time


def resets(bench: Bench) -> list[datetime]:
    return [wire.last_reset_time for wire in bench.stored()]


def test_last_reset_time_left_out_is_the_traders_last_one(bench: Bench) -> None:
    producer = bench.producer()
    for trader_id, reset in [("t1", None), ("t1", None), ("t1", T2), ("t2", T3), ("t1", None), ("t2", None)]:
        assert producer.save(snapshot(trader_id, recorded_at=T1, last_reset_time=reset))
    assert producer.save(snapshot("t3", recorded_at=T2, last_reset_time=None))
    assert producer.flush(30)
    assert resets(bench) == [T1, T1, T2, T3, T2, T3, T2]


def test_it_is_fixed_when_the_snapshot_is_accepted(bench: Bench) -> None:
    producer = bench.producer()
    same = snapshot("t1", recorded_at=T1, last_reset_time=None)
    assert producer.save(same)
    assert producer.save(snapshot("t1", last_reset_time=T2))
    assert producer.save(same)
    assert same.last_reset_time is None
    assert producer.flush(30)
    assert resets(bench) == [T1, T2, T2]
    state = producer.load("t1")
    assert state is not None
    assert state.snapshot.last_reset_time == T2


def test_conflation_keeps_what_was_carried_on(bench: Bench) -> None:
    producer = bench.producer(buffer_size=2, on_full="conflate", persistent=True)
    assert producer.save(snapshot("t1", 0, last_reset_time=T2))
    for number in range(1, 200):
        assert producer.save(snapshot("t1", number, last_reset_time=None))
    assert producer.flush(30)
    assert set(resets(bench)) == {T2}


def test_a_snapshot_that_was_not_accepted_leaves_no_reset_behind(bench: Bench) -> None:
    producer = bench.producer(stream_maxlen=1, buffer_size=8)
    assert producer.save(snapshot("t1", 0, last_reset_time=T1))
    assert producer.flush(30)
    with pytest.raises(Exception, match="not accepted"):
        producer.push(snapshot("t1", 1, last_reset_time=T2), timeout=0.3)
    bench.drain(1)
    producer.push(snapshot("t1", 2, last_reset_time=None), timeout=30)
    assert resets(bench) == [T1]


def test_after_a_restart_it_goes_on_from_what_load_found(bench: Bench) -> None:
    first = bench.producer()
    assert first.save(snapshot("t1", last_reset_time=T1))
    assert first.close()
    second = bench.producer()
    assert second.load("t1") is not None
    assert second.save(snapshot("t1", recorded_at=T3, last_reset_time=None))
    assert second.save(snapshot("t2", recorded_at=T3, last_reset_time=None))
    assert second.close()
    third = bench.producer()  # does not ask: it starts anew
    assert third.save(snapshot("t1", recorded_at=T3 + timedelta(hours=1), last_reset_time=None))
    assert third.flush(30)
    assert resets(bench) == [T1, T1, T3, T3 + timedelta(hours=1)]


def test_a_spool_remembers_it(tmp_path: Path) -> None:
    options: Any = {"spool_dir": tmp_path, "registry": CollectorRegistry()}
    away = RiskProducer("redis://127.0.0.1:1/0", **options)
    assert away.save(snapshot("t1", last_reset_time=T2))
    assert away.save(snapshot("t1", recorded_at=T3, last_reset_time=None))
    assert not away.close(0)
    client = fakeredis.FakeRedis()
    with RiskProducer(client=client, **options) as back:
        assert back.save(snapshot("t1", recorded_at=T3, last_reset_time=None))
        assert back.flush(30)
    assert [wire.last_reset_time for wire in stream_of(client)] == [T2] * 3


def test_with_persistence_off_too() -> None:
    with RiskProducer(persistent=False, registry=CollectorRegistry()) as producer:
        trader = producer.bind("t1")
        assert trader.save(**(FIELDS | {"last_reset_time": T1}))
        assert trader.save(**FIELDS)
        state = trader.load()
        assert state is not None
        assert state.snapshot.last_reset_time == T1
