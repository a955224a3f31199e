"""The drain jobs: whatever dies or freezes between two calls of Redis, every partition is drained again."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from functools import partial
from itertools import product
from random import Random
from typing import Any

import pytest

from tests.support.drain_jobs import Fate, Killed, Process, Worker, check

PARTITIONS = 2
CASES = int(os.environ.get("RISK_TEST_CASES", "6"))
"""How many of the some 100,000 ways in which two workers freeze and die."""


def calls_of_a_life(url: str) -> int:
    """How many calls a worker makes from its birth over two jobs to its end."""
    worker = Worker("a", url, PARTITIONS, [], Fate())
    worker.live(patient=True)
    return worker.fate.calls


def killed(name: str, url: str, at: int | None, *, patient: bool) -> None:
    worker = Worker(name, url, PARTITIONS, [], Fate(at))
    with closing(worker.connection), suppress(Killed):
        worker.live(patient=patient)


def test_a_worker_may_die_between_any_two_calls(redis_url: str, redis_client: Any) -> None:
    calls = calls_of_a_life(redis_url)
    assert calls > 40
    places = range(calls + 1)
    for at in places if "RISK_TEST_CASES" in os.environ else Random(calls).sample(places, min(20, calls)):
        redis_client.flushdb()
        killed("a", redis_url, at, patient=False)
        check(redis_client, redis_url, PARTITIONS)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("patient", [False, True], ids=["a moment", "longer than its lease"])
def test_two_workers_may_freeze_and_die_between_any_two_calls(
    redis_url: str, redis_client: Any, patient: bool
) -> None:
    """The first freezes at one place. The second works meanwhile and dies at another. The first goes on for a
    while, or to its end."""
    calls = calls_of_a_life(redis_url)
    places = [*range(calls), None]
    cases = product(range(calls), places, [*range(8), None])
    for at, dies_at, dies_after in Random(patient).sample(list(cases), CASES):
        redis_client.flushdb()
        first = Worker("a", redis_url, PARTITIONS, [], Fate(at, freezes=True))
        process = Process(first, first.live).start()
        killed("b", redis_url, dies_at, patient=patient)
        process.go_on(dies_after=dies_after)
        first.connection.close()
        assert process.error is None, f"{at}, {dies_at}, {dies_after}: {process.error!r}"
        check(redis_client, redis_url, PARTITIONS)


@pytest.mark.system
def test_a_remnant_that_two_holders_of_a_job_left_is_no_obstacle(redis_url: str, redis_client: Any) -> None:
    """One is about to begin when the other ends and deletes the job; then it writes four fields, and dies."""
    left = 0
    for at in range(calls_of_a_life(redis_url)):
        redis_client.flushdb()
        first = Worker("a", redis_url, PARTITIONS, [], Fate(at, freezes=True))
        process = Process(first, partial(first.live, jobs=1)).start()
        redis_client.delete("rq:job:drain-0")
        process.go_on(dies_after=1)
        first.connection.close()
        left += "data" not in {key.decode() for key in redis_client.hkeys("rq:job:drain-0") or [b"data"]}
        check(redis_client, redis_url, PARTITIONS)
    assert left, "no remnant arose"
