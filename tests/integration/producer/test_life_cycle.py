"""Threads, forks, spawned processes, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer
from tests.conftest import MakeValkey
from tests.support.factory import snapshot
from tests.support.producers import Threaded
from tests.support.redis import stream_of


def test_many_threads_make_no_hole_and_no_repeat(redis_url: str, redis_client: redis.Redis) -> None:
    producer = Threaded(redis_url=redis_url, save_timeout_s=60)
    failed: list[int] = []
    each = 3_000

    def save(thread: int) -> None:
        for number in range(each):
            if not producer.save(snapshot("t1", thread * each + number)):
                failed.append(number)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert producer.close(30)
    assert not failed
    stored = stream_of(redis_client)
    assert [wire.seq for wire in stored] == list(range(1, 10 * each + 1))
    for thread_number in range(10):
        mine = [wire.daily_pnl for wire in stored if wire.daily_pnl // each == thread_number]
        assert mine == sorted(mine), "each thread's own order"
        assert len(mine) == each


def test_a_forked_child_is_its_own_incarnation(redis_url: str, redis_client: redis.Redis) -> None:
    producer = Threaded(redis_url=redis_url)
    producer.push(snapshot("t1", 1), timeout=30)
    with (
        producer.inner._engine.session.section.lock
    ):  # so that something is in the buffer, and the lock is held, while it forks
        assert producer.save(snapshot("t1", 2))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if producer.save(snapshot("t1", 3)) and producer.close(30):
                    status = 0
            finally:
                os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert producer.close(30)
    stored = stream_of(redis_client)
    assert sorted(wire.daily_pnl for wire in stored) == [1, 2, 3], "the parent's buffer is sent once"
    epochs = {wire.daily_pnl: wire.epoch for wire in stored}
    assert epochs[1] == epochs[2] < epochs[3]


def test_a_child_forked_in_an_event_loop_is_its_own_incarnation(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    async def parent() -> None:
        async with AsyncRiskProducer(redis_url, spool_dir=tmp_path, registry=CollectorRegistry()) as producer:
            await producer.push(snapshot("t1", 1))
            assert await producer.save(snapshot("t1", 2))
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                status = 1
                try:
                    status = asyncio.run(go_on(producer))
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert await producer.save(snapshot("t1", 4))
            assert producer.health().spool == "on"

    async def go_on(producer: AsyncRiskProducer) -> int:
        health = producer.health()
        saved = await producer.save(snapshot("t1", 3)) and await producer.close(30)
        return 0 if saved and (health.buffered, health.spool) == (0, "off") else 1

    asyncio.run(parent())
    epochs = {wire.daily_pnl: wire.epoch for wire in stream_of(redis_client)}
    assert sorted(epochs) == [1, 2, 3, 4]
    assert len(stream_of(redis_client)) == 4, "the parent's buffer is sent once"
    assert epochs[1] == epochs[2] == epochs[4] < epochs[3]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(redis_url: str, redis_client: redis.Redis, method: str) -> None:
    """From an interpreter of its own: a fork of this one would take along whatever other tests left in it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pool", redis_url, method, "processes"],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    stored = stream_of(redis_client)
    for trader_id in ("t0", "t1"):
        assert [wire.seq for wire in stored if wire.trader_id == trader_id] == list(range(1, 101))


_FORGETFUL = """
import sys, time
from risk_producer import RiskProducer, RiskSnapshot, process
process.CLOSE_TIMEOUT_S = float(sys.argv[3])
producers = [RiskProducer(sys.argv[1]) for _ in range(int(sys.argv[2]))]
for producer in producers:
    for number in range(100):
        assert producer.save(RiskSnapshot(
            trader_id="t1", daily_pnl=number, drawdown_pct=0, current_equity=1, peak_equity=1))
print(time.monotonic())
"""

_FORGETFUL_ASYNC = """
import asyncio, sys
from risk_producer import AsyncRiskProducer, RiskSnapshot, process
process.CLOSE_TIMEOUT_S = 0.5
async def trade():
    producer = AsyncRiskProducer(sys.argv[1])
    assert await producer.save(RiskSnapshot(
        trader_id="t1", daily_pnl=1, drawdown_pct=0, current_equity=1, peak_equity=1))
asyncio.run(trade())
"""


def test_the_end_of_the_process_flushes(redis_url: str, redis_client: redis.Redis) -> None:
    subprocess.run([sys.executable, "-c", _FORGETFUL, redis_url, "3", "5"], check=True, timeout=60)
    assert len(stream_of(redis_client)) == 300


@pytest.mark.parametrize("redis_is", ["nowhere", "frozen"])
def test_the_end_of_the_process_does_not_hang(make_valkey: MakeValkey, redis_is: str) -> None:
    url = "redis://127.0.0.1:1/0"
    if redis_is == "frozen":
        valkey = make_valkey()
        url = valkey.url
        valkey.pause()
    command = [sys.executable, "-c", _FORGETFUL, url, "20", "1"]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert time.monotonic() - float(done.stdout) < 15, "1 s for all of them together, not for each"
    assert done.stderr.count("was closed with 100 snapshots") == 20


def test_an_asyncio_producer_that_was_not_closed_logs_what_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL_ASYNC, "redis://127.0.0.1:1/0"],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "was closed with 1 snapshots that were never sent" in done.stderr


def test_close_by_two_threads(redis_url: str, redis_client: redis.Redis) -> None:
    producer = Threaded(redis_url=redis_url)
    for number in range(100):
        assert producer.save(snapshot("t1", number))
    threads = [threading.Thread(target=producer.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(stream_of(redis_client)) == 100
