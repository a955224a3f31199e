"""The producers for other people's tests refuse what the real ones refuse, and play their faults."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from risk_producer import AsyncRiskProducer, InvalidSnapshot, ProducerClosed, RiskProducer, StateUnknown
from risk_producer.errors import StreamFull, StreamUnavailable
from risk_producer.testing import AsyncRecordingProducer, RecordingProducer
from tests.support.factory import START, snapshot


def test_what_is_accepted_is_recorded_and_loaded() -> None:
    with RecordingProducer([snapshot("old", 1)]) as producer:
        assert isinstance(producer, RiskProducer)
        assert producer.snapshots == []
        found = producer.load("old")
        assert found is not None and found.snapshot.daily_pnl == 1
        assert producer.load("new") is None
        assert producer.save(snapshot("new", 2, last_reset_time=None, recorded_at=START))
        producer.push(snapshot("new", 3, last_reset_time=None))
        producer.bind("bound").save(daily_pnl=4, drawdown_pct=0, current_equity=1, peak_equity=1)
        assert [each.daily_pnl for each in producer.snapshots] == [2, 3, 4]
        assert [each.last_reset_time for each in producer.of("new")] == [START, START]
        assert producer.flush()
    assert not producer.save(snapshot("new", 5))
    with pytest.raises(ProducerClosed):
        producer.push(snapshot("new", 5))
    assert producer.health().rejected == 2


def test_it_refuses_what_a_producer_refuses() -> None:
    with RecordingProducer() as producer:
        with pytest.raises(InvalidSnapshot):
            producer.save("no snapshot")  # type: ignore[arg-type]
        bound = producer.bind("t")
        assert not bound.save(daily_pnl=float("nan"), drawdown_pct=0, current_equity=1, peak_equity=1)
        with pytest.raises(InvalidSnapshot):
            producer.load("")
        assert producer.snapshots == []


def test_the_faults_of_a_real_one_are_played() -> None:
    with RecordingProducer() as producer:
        producer.stream_full = True
        assert not producer.save(snapshot())
        with pytest.raises(StreamFull):
            producer.push(snapshot())
        assert producer.snapshots == []
        producer.stream_full, producer.redis_away = False, True
        assert producer.save(snapshot("t", 1))
        with pytest.raises(StreamUnavailable):
            producer.push(snapshot("t", 2))
        with pytest.raises(StateUnknown):
            producer.load("t")
        producer.redis_away = False
        assert len(producer.snapshots) == 2, "what push() could not hand over is sent later"
        found = producer.load("t")
        assert found is not None and found.snapshot.daily_pnl == 2


def test_the_one_for_asyncio_does_the_same() -> None:
    async def use() -> None:
        async with AsyncRecordingProducer() as producer:
            assert isinstance(producer, AsyncRiskProducer)
            assert await producer.save(snapshot("t", 1))
            await producer.push(snapshot("t", 2))
            found = await producer.load("t")
            assert found is not None and found.snapshot.daily_pnl == 2
            producer.stream_full = producer.redis_away = True
            assert not await producer.save(snapshot("t", 3))
            with pytest.raises(StreamFull):
                await producer.push(snapshot("t", 3))
            with pytest.raises(StateUnknown):
                await producer.load("t")
            assert [each.daily_pnl for each in producer.of("t")] == [1, 2]

    asyncio.run(use())


@pytest.mark.parametrize(
    ("recording", "real"),
    [(RecordingProducer, RiskProducer), (AsyncRecordingProducer, AsyncRiskProducer)],
)
def test_it_has_the_calls_of_the_real_one(recording: type, real: type) -> None:
    for name, call in inspect.getmembers(real, inspect.isfunction):
        if name.startswith("_"):
            continue
        mine = getattr(recording, name)
        assert inspect.signature(mine) == inspect.signature(call), name
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(call), name


def test_threads_share_one() -> None:
    with RecordingProducer() as producer:
        threads = [
            Thread(target=lambda: [producer.save(snapshot("t", each)) for each in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(producer.snapshots) == 400


def test_the_fixtures_are_there_where_the_plugin_is_named(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["risk_producer.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        "def test_it(recording_producer, async_recording_producer):\n"
        "    bot = recording_producer.bind('t')\n"
        "    bot.save(daily_pnl=1, drawdown_pct=0, current_equity=1, peak_equity=1)\n"
        "    assert [each.trader_id for each in recording_producer.snapshots] == ['t']\n"
        "    assert async_recording_producer.snapshots == []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
