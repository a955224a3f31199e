"""Where a drain job is, and that whatever is there instead is replaced."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from rq import Queue
from rq.utils import now, utcformat

from risk_producer.contract.keys import Keyspace
from risk_worker.runtime import jobs
from risk_worker.runtime.jobs import DRAIN, DRAIN_PARTITION, DrainJob
from risk_worker.runtime.scheduler import (
    _TYPES,
    LEASES_KEY,
    QUEUE_KEY,
    TRANSIT_KEY,
    WORKERS_KEY,
    Condition,
    DrainScheduler,
)
from risk_worker.stream.bindings import OtherDatabase
from risk_worker.stream.workers import LEASE_S, QUEUE, RUNS_FIELD, RUNS_SHARES, process_host
from tests.support.clock import FakeClock

JOB = "rq:job:drain-0"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scheduler(client: Any, clock: FakeClock) -> DrainScheduler:
    return DrainScheduler(client, 1, worker="me", clock=clock)


def is_queued_once(client: Any) -> bool:
    return bool(
        client.lrange(QUEUE_KEY, 0, -1) == [b"drain-0"]
        and client.lrange(TRANSIT_KEY, 0, -1) == []
        and client.hget(JOB, "status") == b"queued"
        and client.hexists(JOB, "data")
    )


def hear_of(client: Any, *names: str) -> None:
    """Workers on other hosts send a heartbeat."""
    for name in names:
        client.hset(
            f"rq:worker:{name}", mapping={"last_heartbeat": utcformat(now()), RUNS_FIELD: RUNS_SHARES}
        )
        client.sadd(WORKERS_KEY, f"rq:worker:{name}")


def queued_shares(client: Any) -> list[list[int]]:
    ids = [job_id.decode() for job_id in client.lrange(QUEUE_KEY, 0, -1)]
    return sorted(DrainJob.fetch(each, connection=client, serializer="json").args for each in ids)


def drain_jobs(client: Any) -> set[bytes]:
    return set(client.keys("rq:job:drain-*"))


def take(client: Any) -> None:
    client.lmove(QUEUE_KEY, TRANSIT_KEY)


def lease(client: Any, score: float, execution: str = "drain-0:x") -> None:
    client.zadd(LEASES_KEY, {execution: score})
    client.hset(f"rq:execution:{execution}", "id", "x")


def test_a_job_that_is_absent_is_enqueued_once(scheduler: DrainScheduler, client: Any) -> None:
    assert scheduler.condition(0, 1) is Condition.ABSENT
    assert scheduler.ensure_enqueued() == ["drain-0"]
    assert scheduler.condition(0, 1) is Condition.QUEUED
    assert scheduler.ensure_enqueued() == []
    assert is_queued_once(client)


def set_field(field: Any, value: bytes, client: Any) -> None:
    client.hset(JOB, field, value)


BAD_JOBS: dict[str, Callable[[Any], Any]] = {
    "a remnant": lambda client: client.hset(JOB, "status", "started"),
    "a remnant of a heartbeat": lambda client: client.hset(JOB, "last_heartbeat", "x"),
    "a string": lambda client: client.set(JOB, "x"),
    "a list": lambda client: client.rpush(JOB, "x"),
    "a stream": lambda client: client.xadd(JOB, {"x": "y"}),
    **{
        f"{field!r} {value!r}": partial(set_field, field, value)
        for field, value in [
            *((field, b"\xff\xfe") for field in ("status", "origin", "created_at", "timeout", "data")),
            *((field, b"abc") for field in ("status", "created_at", "enqueued_at", "timeout", "result_ttl")),
            ("data", b""),
            ("origin", b"another"),
            ("timeout", b"1"),
            ("result_ttl", b"500"),
            ("group_id", b"g"),
            ("webhooks", b"[{}]"),
            ("dependency_ids", b'["x"]'),
            ("rate_limit_key", b"x"),
            (b"\xff", b"x"),
        ]
    },
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_job_that_rq_cannot_read_is_replaced_at_once(
    scheduler: DrainScheduler, client: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not name.startswith("a "):
        scheduler.ensure_enqueued()
    BAD_JOBS[name](client)
    assert scheduler.ensure_enqueued() == ["drain-0"]
    assert is_queued_once(client)
    assert "Re-enqueued drain job drain-0: it was " in caplog.text


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled", "deferred", "scheduled"])
def test_a_job_at_its_end_is_replaced(scheduler: DrainScheduler, client: Any, status: str) -> None:
    scheduler.ensure_enqueued()
    client.delete(QUEUE_KEY)
    client.hset(JOB, "status", status)
    assert scheduler.condition(0, 1) is Condition.ENDED
    scheduler.ensure_enqueued()
    assert is_queued_once(client)


def test_a_job_of_another_share_is_no_job_of_this_one(scheduler: DrainScheduler, client: Any) -> None:
    hear_of(client, "a", "b")
    DrainScheduler(client, 2).ensure_enqueued()
    client.copy("rq:job:drain-1", JOB, replace=True)
    assert scheduler.condition(0, 2) is Condition.UNREADABLE


@pytest.mark.parametrize(
    ("partitions", "workers", "shares"), [(1, 0, 1), (1, 3, 1), (16, 0, 1), (16, 1, 1), (16, 3, 3), (2, 5, 2)]
)
def test_there_are_as_many_shares_as_workers_and_no_more_than_partitions(
    client: Any, partitions: int, workers: int, shares: int
) -> None:
    hear_of(client, *map(str, range(workers)))
    DrainScheduler(client, partitions).ensure_enqueued()
    assert queued_shares(client) == [[share, shares] for share in range(shares)]


def test_when_workers_come_and_go_what_is_queued_of_another_number_of_shares_goes(
    client: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = DrainScheduler(client, 16, clock=clock)
    hear_of(client, "a")
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 1]]
    hear_of(client, "b", "c")
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 3], [1, 3], [2, 3]]
    for _ in range(5):
        clock.now += LEASE_S / 4
        hear_of(client, "a", "b")  # c is dead
        scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 2], [1, 2]]
    client.srem(WORKERS_KEY, "rq:worker:a", "rq:worker:b")  # they leave in good order
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 1]]
    assert drain_jobs(client) == {b"rq:job:drain-0"}
    assert "Re-enqueued" not in caplog.text


def test_workers_of_a_version_before_the_shares_get_none(client: Any) -> None:
    """They cannot run the job."""
    hear_of(client, "new", "old")
    client.hdel("rq:worker:old", RUNS_FIELD)
    DrainScheduler(client, 16).ensure_enqueued()
    assert queued_shares(client) == [[0, 1]]


def test_a_share_of_another_number_that_a_living_worker_holds_is_left_to_it(
    client: Any, clock: FakeClock
) -> None:
    scheduler = DrainScheduler(client, 4, clock=clock)
    hear_of(client, "a", "b")
    scheduler.ensure_enqueued()
    for number in (0, 1):
        take(client)
        client.hset(f"rq:job:drain-{number}", "status", "started")
        lease(client, 1, f"drain-{number}:x")
    client.srem(WORKERS_KEY, "rq:worker:b")
    assert scheduler.ensure_enqueued() == []
    assert [scheduler.condition(number, 1) for number in (0, 1)] == [Condition.HELD] * 2
    clock.now += LEASE_S  # and the holders are dead
    assert scheduler.ensure_enqueued() == ["drain-0"]
    assert queued_shares(client) == [[0, 1]]
    assert drain_jobs(client) == {b"rq:job:drain-0"}


def test_jobs_of_a_version_before_the_shares_are_replaced_without_a_word(
    client: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As an upgrade leaves them: one a partition, two of them under way by workers that are gone."""
    queue = Queue(QUEUE, connection=client, job_class=DrainJob, serializer="json")
    for partition in range(20):  # and there were more partitions before
        queue.enqueue_call(
            DRAIN_PARTITION,
            args=(partition,),
            job_id=f"drain-{partition}",
            timeout=-1,
            result_ttl=0,
            failure_ttl=3600,
            description=f"drain partition {partition}",
        )
    for number in (0, 1):
        take(client)
        client.hset(f"rq:job:drain-{number}", "status", "started")
        lease(client, 1, f"drain-{number}:x")
    hear_of(client, "new")
    scheduler = DrainScheduler(client, 16, clock=clock)
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [], "two shares are held, and that of this worker is one of them"
    assert "Re-enqueued" not in caplog.text and "Removed" not in caplog.text
    clock.now += LEASE_S
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 1]]
    assert drain_jobs(client) == {b"rq:job:drain-0"}


def test_the_job_of_a_version_before_the_shares_can_be_run(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While workers of both versions run."""
    monkeypatch.setenv("RISK_PARTITIONS", "4")
    drained: list[object] = []
    monkeypatch.setattr(jobs, "drain_share", lambda *args: drained.append(args))
    job = DrainJob.create(DRAIN_PARTITION, args=(2,), connection=client, serializer="json", timeout=-1)
    job.func(*job.args)
    assert drained == [(2, 4, False)]


@pytest.mark.parametrize(
    "args", [[], [0], [0, 1, 2], [1, 2], [0, 0], [2, 2], [0, "1"], ["0", 1], [0, 1.5], [None, 1]]
)
def test_a_job_of_no_share_is_replaced(scheduler: DrainScheduler, client: Any, args: list[Any]) -> None:
    queue = Queue(QUEUE, connection=client, job_class=DrainJob, serializer="json")
    queue.enqueue_call(DRAIN, args=args, job_id="drain-0", timeout=-1, result_ttl=0, failure_ttl=3600)
    assert scheduler.condition(0, 1) is Condition.UNREADABLE
    scheduler.ensure_enqueued()
    assert queued_shares(client) == [[0, 1]]


def test_jobs_of_other_names_on_the_queue_are_left_alone(scheduler: DrainScheduler, client: Any) -> None:
    client.rpush(QUEUE_KEY, "drain-x", "drain-00", "drain-", "other", b"\xff", "drain-123456")
    scheduler.ensure_enqueued()
    assert client.llen(QUEUE_KEY) == 7


def test_a_job_in_transit_has_a_moment_and_each_transit_a_new_one(
    scheduler: DrainScheduler, client: Any, clock: FakeClock
) -> None:
    scheduler.ensure_enqueued()
    take(client)
    assert scheduler.condition(0, 1) is Condition.IN_TRANSIT
    clock.now = 1.0
    assert scheduler.ensure_enqueued() == []
    client.hset(JOB, "status", "started")  # it is under way ...
    lease(client, 1)
    assert scheduler.condition(0, 1) is Condition.HELD
    client.hset(JOB, "status", "queued")  # ... and minutes later taken again
    client.delete(LEASES_KEY)
    clock.now = 300.0
    assert scheduler.ensure_enqueued() == [], "put back at once, although it was taken a moment ago"
    clock.now += DrainScheduler.TRANSIT_S
    assert scheduler.ensure_enqueued() == ["drain-0"]
    take(client)  # nobody looked in between
    assert scheduler.condition(0, 1) is Condition.IN_TRANSIT


@pytest.mark.parametrize("score", [0, 1, 9e18, float("inf"), -5], ids=str)
def test_a_lease_lives_as_long_as_it_changes_whatever_clocks_say(
    scheduler: DrainScheduler, client: Any, clock: FakeClock, score: float
) -> None:
    scheduler.ensure_enqueued()
    take(client)
    client.hset(JOB, "status", "started")
    lease(client, score)
    for beat in range(10):
        assert scheduler.condition(0, 1) is Condition.HELD
        clock.now += LEASE_S - 1
        client.zadd(LEASES_KEY, {"drain-0:x": 100 + beat})
    assert scheduler.condition(0, 1) is Condition.HELD
    clock.now += LEASE_S
    assert scheduler.condition(0, 1) is Condition.ABANDONED
    assert scheduler.ensure_enqueued() == ["drain-0"]
    assert is_queued_once(client)
    assert client.zcard(LEASES_KEY) == 0


def test_a_lease_that_redis_let_expire_is_over_at_once(scheduler: DrainScheduler, client: Any) -> None:
    scheduler.ensure_enqueued()
    take(client)
    client.hset(JOB, "status", "started")
    lease(client, time.time() + 1_000)
    client.delete("rq:execution:drain-0:x")
    assert scheduler.ensure_enqueued() == ["drain-0"]


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash"])
@pytest.mark.parametrize("key", [*_TYPES, "rq:executions:drain-0", "risk:drain-jobs"])
def test_a_key_of_rq_of_another_type_is_named_and_made_anew(
    scheduler: DrainScheduler, client: Any, clock: FakeClock, key: str, kind: str, caplog: Any
) -> None:
    scheduler.ensure_enqueued()
    right = client.type(key)
    client.delete(key)
    put: dict[str, Callable[[], Any]] = {
        "string": lambda: client.set(key, b"\xff"),
        "list": lambda: client.rpush(key, b"\xff"),
        "set": lambda: client.sadd(key, b"\xff"),
        "zset": lambda: client.zadd(key, {b"\xff": 1}),
        "hash": lambda: client.hset(key, b"\xff", b"\xff"),
    }
    put[kind]()
    for _ in range(2):
        scheduler.ensure_enqueued()
        clock.now += DrainScheduler.TRANSIT_S
    assert client.lrange(QUEUE_KEY, 0, -1).count(b"drain-0") == 1
    assert scheduler.condition(0, 1) is Condition.QUEUED
    assert key in caplog.text or kind.encode() == right or right == b"none"


@pytest.mark.parametrize(
    ("field", "value"),
    [("pid", b"abc"), ("pid", b""), ("pid", b"\xff"), ("process_host", b"\xff\xfe"), ("pid", b"9" * 30)],
)
def test_a_registration_that_cannot_be_read_is_removed_and_named(
    scheduler: DrainScheduler, client: Any, field: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    registration = {"pid": "1", "process_host": process_host(), field: value}
    client.hset("rq:worker:X", mapping=registration)
    client.sadd(WORKERS_KEY, "rq:worker:X", b"\xff\xfe")
    client.set("rq:worker:Y", "x")
    client.sadd(WORKERS_KEY, "rq:worker:Y")
    scheduler.ensure_enqueued()
    assert client.smembers(WORKERS_KEY) == set()
    assert not client.exists("rq:worker:X", "rq:worker:Y")
    assert "rq:worker:X" in caplog.text and "rq:worker:Y" in caplog.text


def test_a_name_is_free_when_its_holder_is_dead(scheduler: DrainScheduler, client: Any) -> None:
    def register(pid: int, host: str, heartbeat: str) -> None:
        client.hset("rq:worker:w1", mapping={"pid": pid, "process_host": host, "last_heartbeat": heartbeat})

    fresh = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    assert scheduler.release_name("rq:worker:w1")
    register(2**22 + 1, process_host(), fresh)  # no such process
    assert scheduler.release_name("rq:worker:w1")
    register(os.getpid(), process_host(), fresh)  # a container's pid 1 before its restart
    assert scheduler.release_name("rq:worker:w1")
    register(1, "elsewhere", "2020-01-01T00:00:00.000000Z")
    assert scheduler.release_name("rq:worker:w1")
    assert not client.exists("rq:worker:w1")
    register(os.getppid(), process_host(), fresh)
    assert not scheduler.release_name("rq:worker:w1")
    register(1, "elsewhere", fresh)
    assert not scheduler.release_name("rq:worker:w1")


def test_a_repair_that_fails_is_loud_and_counted(
    scheduler: DrainScheduler, client: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DrainScheduler, "_delete", lambda _self, pipeline, *_: pipeline.set(JOB, "x"))
    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match="WRONGTYPE"):
        scheduler.ensure_enqueued()
    assert "Drain job drain-0 could not be enqueued: " in caplog.text
    assert client.hget("risk:drain-jobs", "failed") == b"1"


def test_no_lock_is_held_while_postgres_is_asked_whose_the_jobs_are(client: Any) -> None:
    """It may not answer, and the other threads of the worker look after the jobs meanwhile."""
    keyspace = Keyspace()
    client.set(keyspace.database, "other")
    seen: list[bool] = []

    def read() -> str:
        seen.append(made._lock.acquire(blocking=False))
        made._lock.release()
        return "other"

    made = DrainScheduler(client, 1, keyspace=keyspace, identity="mine", read_identity=read)
    assert made.ensure_enqueued() == ["drain-0"]
    assert seen == [True]
    client.set(keyspace.database, "a third")
    with pytest.raises(OtherDatabase):
        made.ensure_enqueued()
