"""What the process around a producer does: other clients, other loops, other copies of the modules."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry, generate_latest
from redis.exceptions import ChildDeadlockedError, IncorrectPolicyType, RedisClusterException

import risk_producer
from risk_producer import AsyncRiskProducer, ConfigurationError, RiskProducer
from risk_producer.base import ProducerBase
from risk_producer.settings import Settings
from tests.support.factory import snapshot
from tests.support.redis import stream_of
from tests.support.wait import wait_until


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
def test_a_client_whose_calls_are_awaited_is_rejected_at_once(kind: type[ProducerBase]) -> None:
    with pytest.raises(ConfigurationError, match=r"client expects a redis\.Redis"):
        kind(client=redis.asyncio.Redis(), registry=CollectorRegistry())


class Cluster(redis.RedisCluster):
    """Connects to nothing."""

    def __init__(self) -> None:
        pass

    def __del__(self) -> None:
        pass


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
def test_a_client_of_a_cluster_cannot_wait_for_replicas(kind: type[ProducerBase]) -> None:
    with pytest.raises(ConfigurationError, match="replicas is 1, and client is a Cluster"):
        kind(client=Cluster(), replicas=1, registry=CollectorRegistry())


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
def test_the_replicas_of_the_settings_are_waited_for_in_the_child_of_a_fork_too(
    kind: type[ProducerBase],
) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", replicas=2)
    transport = kind.from_settings(settings, registry=CollectorRegistry())._engine.flusher.transport
    assert [each.connected()._replicas for each in (transport, transport.child())] == [2, 2]


def test_a_spool_that_is_a_file_is_rejected(tmp_path: Path, client: fakeredis.FakeRedis) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is not a folder"):
        RiskProducer(client=client, spool_dir=tmp_path / "file", registry=CollectorRegistry())


def test_a_loop_that_ends_with_snapshots_left_loses_none(client: fakeredis.FakeRedis) -> None:
    producer = AsyncRiskProducer(client=client, registry=CollectorRegistry())

    async def save(first: int) -> None:
        for number in range(first, first + 50):
            assert await producer.save(snapshot("t1", number))

    asyncio.run(save(0))
    asyncio.run(save(50))
    assert asyncio.run(producer.close())
    assert [wire.daily_pnl for wire in stream_of(client)] == list(range(100))


def test_a_task_that_is_left_waiting_in_a_closed_loop_hinders_no_other(client: fakeredis.FakeRedis) -> None:
    producer = AsyncRiskProducer(client=client, registry=CollectorRegistry())
    ask, away = producer._engine.flusher.transport.connected().ask, True

    def maybe(requests: Any, **options: Any) -> Any:
        if away:
            raise OSError("away")
        return ask(requests, **options)

    producer._engine.flusher.transport.connected().ask = maybe  # type: ignore[method-assign]
    loop = asyncio.new_event_loop()
    task = loop.create_task(producer.push(snapshot("t1", 0), timeout=60))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    away = False
    wait_until(lambda: len(stream_of(client)) == 1)
    assert asyncio.run(producer.close())
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_an_abandoned_generator_keeps_what_it_saved(client: fakeredis.FakeRedis) -> None:
    async def trading() -> AsyncIterator[int]:
        async with AsyncRiskProducer(client=client, registry=CollectorRegistry()) as producer:
            for number in range(10):
                assert await producer.save(snapshot("t1", number))
                yield number

    async def take_three() -> None:
        trades = trading()
        for _ in range(3):
            await anext(trades)

    asyncio.run(take_three())
    gc.collect()
    wait_until(lambda: [wire.daily_pnl for wire in stream_of(client)] == [0, 1, 2])


def test_load_needs_nothing_of_the_hosts_executor(client: fakeredis.FakeRedis) -> None:
    producer = AsyncRiskProducer(client=client, registry=CollectorRegistry())

    async def host() -> None:
        executor = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        executor.shutdown()
        await producer.push(snapshot("t1", 7), timeout=30)
        state = await producer.load("t1")
        assert state is not None
        assert state.snapshot.daily_pnl == 7
        await producer.close()

    asyncio.run(host())


@pytest.mark.parametrize("kind", [RedisClusterException, IncorrectPolicyType, ChildDeadlockedError])
def test_what_a_client_of_the_traders_own_raises_is_an_outage(
    kind: type[Exception], client: fakeredis.FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """A cluster's client raises errors that are no RedisError."""
    producer = RiskProducer(client=client, registry=CollectorRegistry())
    execute, away = client.execute_command, True

    def maybe(*arguments: Any, **options: Any) -> Any:
        if away:
            raise kind("no node can be reached")
        return execute(*arguments, **options)  # type: ignore[no-untyped-call]

    client.execute_command = maybe  # type: ignore[method-assign]
    assert producer.save(snapshot("t1", 1))
    wait_until(lambda: producer.health().backend == "memory")
    assert producer.health().reason == f"{kind.__name__}: no node can be reached"
    away = False
    assert producer.flush(10)
    [critical] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert critical.getMessage().startswith("The producer cannot use Redis")
    assert not critical.exc_info
    assert producer.close()


def test_load_and_save_do_not_wait_for_the_hosts_busy_executor(client: fakeredis.FakeRedis) -> None:
    released = threading.Event()

    async def host() -> None:
        with ThreadPoolExecutor(1) as executor:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(executor)
            busy = [loop.run_in_executor(None, released.wait, 60) for _ in range(3)]
            try:
                async with asyncio.timeout(20):
                    producer = AsyncRiskProducer(
                        client=client, buffer_size=2, save_timeout_s=20, registry=CollectorRegistry()
                    )
                    for number in range(20):
                        assert await producer.save(snapshot("t1", number))
                    assert await producer.flush()
                    state = await producer.load("t1")
                    assert state is not None and state.snapshot.daily_pnl == 19
                    assert await producer.close()
                assert not any(each.done() for each in busy)
            finally:
                released.set()
            await asyncio.gather(*busy)

    asyncio.run(host())
    assert len(stream_of(client)) == 20


def test_nothing_holds_on_to_the_hosts_context(client: fakeredis.FakeRedis) -> None:
    class Value:
        pass

    variable: contextvars.ContextVar[Value] = contextvars.ContextVar("variable")

    def made() -> tuple[RiskProducer, int]:
        variable.set(Value())
        producer = RiskProducer(client=client, registry=CollectorRegistry())
        producer.push(snapshot("t1", 1), timeout=30)
        return producer, 0

    producer, _ = contextvars.Context().run(made)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Value]
    assert producer.close()


def test_without_a_loop_the_error_says_what_to_use(client: fakeredis.FakeRedis) -> None:
    producer = AsyncRiskProducer(client=client, registry=CollectorRegistry())
    with pytest.raises(ConfigurationError, match="use RiskProducer, in a thread"):
        producer.push(snapshot("t1", 1)).send(None)
    with pytest.raises(risk_producer.StateUnknown, match="use RiskProducer, in a thread"):
        producer.load("t1").send(None)
    assert asyncio.run(producer.close())


def test_a_second_copy_of_the_modules_may_use_the_same_registry(client: fakeredis.FakeRedis) -> None:
    registry = CollectorRegistry()
    first = RiskProducer(client=client, registry=registry)
    mine = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "risk_producer"}
    for name in mine:
        del sys.modules[name]
    try:
        second = importlib.import_module("risk_producer").RiskProducer(client=client, registry=registry)
        assert type(second) is not type(first)
        assert b"risk_producer_accepted_total" in generate_latest(registry)
        assert second.close()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "risk_producer"]:
            del sys.modules[name]
        sys.modules.update(mine)
    assert first.close()


def test_many_producers_leave_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        producer = RiskProducer("redis://127.0.0.1:1/0", registry=CollectorRegistry())
        assert producer.save(snapshot("t1", 1))
        producer.close(0)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
