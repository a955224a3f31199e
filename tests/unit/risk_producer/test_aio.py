"""What is asyncio's own: cancelling, and handles. The rest is in the conformance suite."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, Settings, StreamUnavailable
from risk_producer.bound import SnapshotFields
from tests.support.factory import snapshot
from tests.support.producers import PATIENCE_S

FIELDS: SnapshotFields = {"daily_pnl": 1.0, "drawdown_pct": 0.0, "current_equity": 1.0, "peak_equity": 1.0}


def producer(client: Any, **options: Any) -> AsyncRiskProducer:
    return AsyncRiskProducer(
        client=client, registry=CollectorRegistry(), **{"save_timeout_s": PATIENCE_S, **options}
    )


def pnls(client: Any) -> list[bytes]:
    return [
        fields[b"s"].split(b'"daily_pnl":')[1].split(b",")[0]
        for _, fields in client.xrange("risk:{0}:snapshots")
    ]


def test_a_cancelled_wait_for_room_accepted_nothing() -> None:
    async def scenario() -> None:
        client = fakeredis.FakeRedis()
        async with producer(client, stream_maxlen=1, buffer_size=1) as traders:
            await traders.push(snapshot("t1", 1))
            assert await traders.save(snapshot("t1", 2))
            waiting = asyncio.create_task(traders.save(snapshot("t1", 3)))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert traders.health().buffered == 1
            client.xtrim("risk:{0}:snapshots", maxlen=0)
            assert await traders.flush(30)
            assert pnls(client) == [b"2.0"]

    asyncio.run(scenario())


def test_a_cancelled_push_that_was_accepted_goes_out() -> None:
    async def scenario() -> None:
        client = fakeredis.FakeRedis()
        async with producer(client) as traders:
            stream = traders._engine.flusher.transport.connected()
            ask, held = stream.ask, threading.Event()

            def hold(requests: Any, **options: Any) -> Any:
                held.wait(30)
                return ask(requests, **options)

            stream.ask = hold  # type: ignore[method-assign]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await traders.push(snapshot("t1", 1))
            held.set()
            assert await traders.flush(30)
            assert pnls(client) == [b"1.0"]

    asyncio.run(scenario())


def test_many_tasks_make_no_hole() -> None:
    async def scenario() -> None:
        client = fakeredis.FakeRedis()
        async with producer(client, buffer_size=16) as traders:

            async def save(first: int) -> None:
                for number in range(50):
                    assert await traders.save(snapshot("t1", first + number))

            await asyncio.gather(*(save(100 * task) for task in range(10)))
            assert await traders.flush(30)
            assert len(pnls(client)) == 500

    asyncio.run(scenario())


def test_bind_knows_the_trader() -> None:
    async def scenario() -> None:
        client = fakeredis.FakeRedis()
        async with producer(client) as traders:
            trader = traders.bind("t7")
            assert await trader.save(**FIELDS)
            await trader.push(**(FIELDS | {"daily_pnl": 2.0}))
            state = await trader.load()
            assert state is not None and state.snapshot.trader_id == "t7"

    asyncio.run(scenario())


@pytest.mark.parametrize("setting", [{"ENABLE_PERSISTENCE": "false"}, {"PERSISTENCE_BACKEND": "memory"}])
def test_persistence_off_keeps_state_in_memory_and_sends_nothing(setting: dict[str, str]) -> None:
    async def scenario() -> None:
        registry = CollectorRegistry()
        async with AsyncRiskProducer.from_settings(Settings.load(setting), registry=registry) as traders:
            assert await traders.load("t1") is None
            for number in range(1000):
                assert await traders.save(snapshot("t1", number))
            await traders.push(snapshot("t1", 1000))
            state = await traders.load("t1")
            assert state is not None and (state.source, state.snapshot.daily_pnl) == ("memory", 1000)
            health = traders.health()
            assert (health.backend, health.reason) == ("memory", "persistence is off")
            labels = {"trader_id": "t1", "backend": "memory"}
            assert registry.get_sample_value("risk_persistence_attempts_total", labels) == 1001
            assert registry.get_sample_value("risk_producer_backend", {"backend": "memory"}) == 1
            assert not traders._engine.flusher.runs()

    asyncio.run(scenario())


def test_close_in_an_outage_has_a_bound() -> None:
    async def scenario() -> None:
        traders = AsyncRiskProducer("redis://127.0.0.1:1/0", registry=CollectorRegistry())
        assert await traders.save(snapshot("t1", 1))
        with pytest.raises(StreamUnavailable):
            await traders.push(snapshot("t1", 2), timeout=0.1)
        async with asyncio.timeout(30):
            assert not await traders.close(0.1)

    asyncio.run(scenario())


@pytest.mark.parametrize("moments", range(8))
def test_close_may_be_cancelled_at_any_moment(tmp_path: Path, moments: int) -> None:
    """It lets go of everything: the flusher, the spool's folder, the metrics."""

    async def scenario() -> None:
        registry = CollectorRegistry()
        nobody = "redis://127.0.0.1:1/0"
        traders = AsyncRiskProducer(nobody, spool_dir=tmp_path, registry=registry)
        assert await traders.save(snapshot("t1", 1))
        closing = asyncio.create_task(traders.close(0.0))
        for _ in range(moments):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert not await traders.close(0.0)
        assert registry.get_sample_value("risk_producer_backend", {"backend": "memory"}) == 0
        again = AsyncRiskProducer(nobody, spool_dir=tmp_path, registry=CollectorRegistry())
        assert again.health().buffered == 1
        await again.close(0.0)

    asyncio.run(scenario())
