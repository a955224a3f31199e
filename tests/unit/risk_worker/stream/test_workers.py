"""Which workers are alive, whatever their clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from risk_worker.stream.workers import (
    COMMIT_WAIT_FIELD,
    LEASE_S,
    RUNS_FIELD,
    RUNS_SHARES,
    LiveWorkers,
    registered_workers,
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
