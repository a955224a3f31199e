"""A producer, and a worker with RQ, behind three Sentinels: the master is killed under them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from risk_devkit.groups import ValkeySentinels
from risk_producer import RiskProducer, StateUnknown
from risk_producer.transport.connect import REDIS_ERRORS, redis_client
from tests.support.bounds import Bound
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.producers import OnLoop, Threaded
from tests.support.servers import server_folder
from tests.support.steady import Steady
from tests.support.wait import wait_until

DOWN_AFTER_S = 1.0


@pytest.fixture
def sentinels() -> Iterator[ValkeySentinels]:
    with (
        server_folder() as folder,
        ValkeySentinels(folder, down_after_ms=int(DOWN_AFTER_S * 1000)) as running,
    ):
        yield running


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "riskstream.producer"]


def test_the_sentinels_have_a_password_of_their_own_and_one_of_them_may_be_away() -> None:
    with (
        server_folder() as folder,
        ValkeySentinels(folder, replicas=0, sentinels=2, sentinel_password="own") as running,
    ):
        with RiskProducer(running.url) as producer:
            producer.push(snapshot("a", 1), timeout=30)
        running.sentinels[0].kill()
        with RiskProducer(running.url) as producer:
            producer.push(snapshot("a", 2), timeout=30)
        for wrong in ("", "?sentinel_password=wrong"):
            url = f"{running.url.partition('?')[0]}{wrong}"
            with (
                redis_client(url, answer_timeout_s=2, connect_timeout_s=2) as client,
                pytest.raises(
                    REDIS_ERRORS, match=r"(?i)auth|WRONGPASS|invalid username-password pair"
                ) as caught,
            ):
                client.ping()
            assert "own" not in str(caught.value)
        other = running.url.replace("/mymaster", "/another")
        with (
            redis_client(other, answer_timeout_s=2, connect_timeout_s=2) as client,
            pytest.raises(REDIS_ERRORS, match="no master of that name; masters: mymaster"),
        ):
            client.ping()
        with RiskProducer(other) as producer, pytest.raises(StateUnknown, match="masters: mymaster"):
            producer.load("a")


@pytest.mark.system
@pytest.mark.timeout(120)
@pytest.mark.parametrize("flavour", ["threaded", "asyncio"])
def test_a_killed_master_loses_nothing(
    sentinels: ValkeySentinels,
    flavour: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    bound: Bound,
) -> None:
    options: dict[str, Any] = {"redis_url": sentinels.url, "buffer_size": 20_000}
    producer: Any = Threaded(**options) if flavour == "threaded" else OnLoop(**options)
    try:
        with caplog.at_level(logging.WARNING), Steady(producer, partitions=1) as load:
            wait_until(lambda: load.total >= 500, 30, "500 snapshots")
            sentinels.master().kill()
            wait_until(lambda: producer.health().backend == "memory", 30, "the producer to see it")
            wait_until(lambda: producer.health().backend == "postgres", 30, "the producer to be back")
            before = load.total
            wait_until(lambda: load.total >= before + 200, 30, "200 more")
        assert producer.flush(30)
        with redis_client(sentinels.url, answer_timeout_s=5, connect_timeout_s=5, retries=3) as client:
            missing = load.missing(client)
    finally:
        producer.close(0.0)
        if isinstance(producer, OnLoop):
            producer.stop()
    with capsys.disabled():
        print(f"\n{flavour}: {load.total} accepted, {missing} missing; stall {load.stalls[0]:.2f} s")
    assert missing == 0
    assert load.rejected == 0
    assert len(lines(caplog)) == 2
    bound("the master behind Sentinels is killed", load.stalls[0])


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_master_that_is_replaced_and_takes_writes_all_the_same_is_left_soon(
    sentinels: ValkeySentinels, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an operator: Sentinel makes a replica of it 10 s later, and what it took until then is gone."""
    producer: Any = Threaded(redis_url=sentinels.url, buffer_size=20_000)
    try:
        with Steady(producer, partitions=1) as load:
            wait_until(lambda: load.total >= 300, 30, "300 snapshots")
            old = sentinels.master()
            with sentinels.sentinels[0].client() as client:
                client.execute_command("SENTINEL", "FAILOVER", sentinels.name)
            wait_until(lambda: sentinels.master() is not old, 60, "the old master to become a replica")
        assert producer.flush(30)
        with redis_client(sentinels.url, answer_timeout_s=5, connect_timeout_s=5, retries=3) as client:
            missing = load.missing(client)
    finally:
        producer.close(0.0)
    with capsys.disabled():
        print(f"\n{load.total} accepted, {missing} missing")
    assert missing < load.total / 2


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_worker_and_its_rq_go_over_too(
    sentinels: ValkeySentinels, database_url: str, tmp_path: Path, db: psycopg.Connection
) -> None:
    def stored() -> int:
        row = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
        assert row is not None
        return int(row[0])

    environ = {"REDIS_URL": sentinels.url, "POSTGRES_URL": database_url}
    producer: Any = Threaded(redis_url=sentinels.url, buffer_size=20_000)
    try:
        with ChildProcess(tmp_path / "worker.log", environ) as worker:
            with Steady(producer, partitions=1, rate=200) as load:
                wait_until(lambda: stored() >= 200, 60, "the worker to store")
                sentinels.master().kill()
                wait_until(lambda: producer.health().backend == "memory", 30, "the producer to see it")
                wait_until(lambda: producer.health().backend == "postgres", 30, "the producer to be back")
                at_failover = stored()
                wait_until(lambda: stored() >= at_failover + 400, 60, "the worker to store again")
            assert producer.flush(30)
            wait_until(lambda: stored() == load.total, 60, f"all {load.total}")
            assert worker.running
            assert worker.stop() == 0
    finally:
        producer.close(0.0)
    assert stored() == load.total
