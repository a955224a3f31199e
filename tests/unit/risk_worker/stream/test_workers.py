"""Which workers are alive, whatever their clocks say."""

from __future__ import annotations

import json
import os
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from risk_worker.stream.workers import (
    COMMIT_WAIT_FIELD,
    KEPT_S,
    LEASE_S,
    PROCESS_HOST_FIELD,
    RUNS_FIELD,
    RUNS_SHARES,
    LiveWorkers,
    RegisteredWorker,
    process_host,
    registered_workers,
    shares_at_work,
)
from tests.support.clock import FakeClock

WORKERS_KEY = "rq:workers:risk-drain"


def heartbeat(client: Any, name: str, *, ahead_s: float = 0.0) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()
    client.hset(f"rq:worker:{name}", mapping={"last_heartbeat": at, RUNS_FIELD: RUNS_SHARES})
    client.sadd(WORKERS_KEY, f"rq:worker:{name}")


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0, -3600.0, -LEASE_S - 1.0])
def test_a_worker_lives_as_long_as_its_heartbeat_changes(client: Any, ahead_s: float) -> None:
    clock = FakeClock()
    workers = LiveWorkers(clock=clock)
    heartbeat(client, "a", ahead_s=ahead_s)
    assert workers.count(client) == (ahead_s >= 0), "only the first sight depends on its clock"
    for _ in range(10):
        clock.now += LEASE_S - 1
        heartbeat(client, "a", ahead_s=ahead_s)
        assert workers.count(client) == 1
    clock.now += LEASE_S - 1
    assert workers.count(client) == 1
    clock.now += 1
    assert workers.count(client) == 0
    heartbeat(client, "a", ahead_s=ahead_s)
    assert workers.count(client) == 1


def test_one_that_died_before_it_was_first_seen_is_dead_a_lease_after_its_death(client: Any) -> None:
    clock = FakeClock()
    workers = LiveWorkers(clock=clock)
    heartbeat(client, "a", ahead_s=-LEASE_S + 5)
    assert workers.count(client) == 1
    clock.now += 5.1
    assert workers.count(client) == 0


def test_what_cannot_be_read_is_no_worker(client: Any) -> None:
    workers = LiveWorkers(clock=FakeClock())
    client.sadd(WORKERS_KEY, "rq:worker:gone", b"\xff", "rq:worker:text", "rq:worker:bad")
    client.set("rq:worker:text", "x")
    client.hset("rq:worker:bad", mapping={"last_heartbeat": "yesterday", COMMIT_WAIT_FIELD: "nan"})
    heartbeat(client, "good")
    assert workers.count(client) == 1
    assert sum(each.commit_wait_s for each in registered_workers(client)) == 0.0
    client.delete(WORKERS_KEY)
    client.set(WORKERS_KEY, "x")
    assert workers.count(client) == 0


def register(client: Any, name: str, *, heard_s: float = 1.0, **fields: Any) -> bytes:
    """As RQ does, so many seconds ago."""
    key = f"rq:worker:{name}"
    heartbeat(client, name, ahead_s=-3600.0)
    client.hset(
        key,
        mapping={"hostname": "h", "pid": 2**22 + 1, PROCESS_HOST_FIELD: "elsewhere", **fields},
    )
    client.pexpire(key, round(1000 * (KEPT_S - heard_s)))
    return key.encode()


def found(client: Any, key: bytes) -> RegisteredWorker:
    return next(each for each in registered_workers(client) if each.key == key)


@pytest.mark.parametrize(("heard_s", "alive"), [(1.0, True), (LEASE_S - 1.0, True), (LEASE_S + 1.0, False)])
def test_when_a_worker_was_heard_of_does_not_depend_on_its_clock(
    client: Any, heard_s: float, alive: bool
) -> None:
    worker = found(client, register(client, "a", heard_s=heard_s))
    assert worker.heard_s == pytest.approx(heard_s, abs=1.0)
    assert worker.is_alive is alive


def test_a_process_of_this_host_that_runs_no_more_is_gone(client: Any) -> None:
    here: dict[str, Any] = {PROCESS_HOST_FIELD: process_host()}
    gone = found(client, register(client, "a", **here))
    assert gone.is_gone
    assert not gone.is_alive
    assert not found(client, register(client, "b", pid=os.getpid(), **here)).is_gone
    assert not found(client, register(client, "c")).is_gone, "on another host"
    assert not found(client, register(client, "d", pid="9" * 30, **here)).is_alive


def test_which_share_a_worker_drains(client: Any) -> None:
    keys = [register(client, name) for name in "abcd"]
    for at, key in enumerate(keys):
        client.sadd(key + b":executions", f"drain-{at}:1")
    keys.append(register(client, "idle"))
    jobs: list[Any] = [["f", None, [1, 4], {}], ["f", None, [4, 4], {}], ["f", None, ["1", 4], {}], "x"]
    for at, data in enumerate(jobs):
        client.hset(f"rq:job:drain-{at}", "data", zlib.compress(json.dumps(data).encode()))
    client.hset("rq:job:drain-3", "data", b"\x00garbage")
    shares = shares_at_work(client, registered_workers(client))
    assert shares == {keys[0]: (1, 4)}
    assert shares_at_work(client, []) == {}


def test_since_when_it_runs(client: Any) -> None:
    worker = found(client, register(client, "a", birth="2026-11-26T03:00:00.000000Z"))
    assert worker.born == datetime(2026, 11, 26, 3, tzinfo=UTC)
    assert found(client, register(client, "b", birth="soon")).born is None
