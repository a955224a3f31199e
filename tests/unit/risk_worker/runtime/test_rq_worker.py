"""The worker around RQ's own loop."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from redis import exceptions as redis_errors
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_worker.runtime import connected, jobs
from risk_worker.runtime import worker as worker_module
from risk_worker.runtime.jobs import DrainJob
from risk_worker.runtime.sealing import Sealing
from risk_worker.runtime.worker import DrainWorker
from risk_worker.stream.workers import KEPT_S, QUEUE
from tests.support.wait import wait_until


def test_a_signal_while_the_worker_registers_anew_ends_it_in_good_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = iter([False, StopRequested()])

    def work(*_args: object, **_options: object) -> Any:
        """RQ's loop gave up; then the signal comes before it is under way again."""
        outcome = next(rounds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(SimpleWorker, "work", work)
    assert not DrainWorker(connection=fakeredis.FakeRedis()).work()
    assert next(rounds, None) is None


def test_what_a_worker_starts_is_started_though_redis_answers_only_the_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It went on without what keeps the drain jobs enqueued, seals, and serves /readyz."""
    monkeypatch.setattr(jobs, "_settings", None)  # so that those of this worker go with the test
    settings = Settings(redis_url="redis://127.0.0.1:1", postgres_url="postgresql://h/x")
    worker = DrainWorker(connection=fakeredis.FakeRedis(), settings=settings)
    answers = iter([redis_errors.ConnectionError("refused"), None])

    def answer(*_arguments: object) -> None:
        if error := next(answers, None):
            raise error

    monkeypatch.setattr(
        worker_module,
        "_wait_for_database",
        lambda *_, **__: worker_module._Database("identity", may_retain=True),
    )
    monkeypatch.setattr(connected, "sentence", answer)
    started: list[object] = []
    monkeypatch.setattr(worker_module._Supervisor, "start", lambda each: started.append(each))
    monkeypatch.setattr(Sealing, "start", lambda each: started.append(each))
    with pytest.raises(redis_errors.ConnectionError):
        worker.bootstrap()
    assert started == []
    worker.bootstrap()
    assert [type(each).__name__ for each in started] == ["_Supervisor", "Sealing"]
    worker.teardown()


def test_an_error_of_the_operating_system_ends_a_worker_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended with status 2, as a wrong setting does, and the log had nothing but "Invalid argument"."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(worker_module, "DrainWorker", lambda *_, **__: SimpleNamespace(work=fail))
    monkeypatch.setattr(worker_module, "_wait_for_redis", lambda *_: None)
    settings = Settings(redis_url="redis://127.0.0.1:1", postgres_url="postgresql://h/x")
    with pytest.raises(SystemExit) as caught:
        worker_module.run(settings)
    assert caught.value.code == 1
    assert "The worker ends" in caplog.text
    assert "line" in caplog.text
    assert "OSError: [Errno 22] Invalid argument" in caplog.text


def test_misspelt_variables_are_logged_where_the_worker_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under `rq worker`; `riskstream worker` has read and named them already."""
    monkeypatch.setattr("os.environ", {"RISK_PARTITION": "4"})
    with pytest.raises(ConfigurationError, match="POSTGRES_URL is not set"):
        DrainWorker(connection=fakeredis.FakeRedis()).bootstrap()
    assert caplog.messages == ["RISK_PARTITION is no setting; do you mean RISK_PARTITIONS?"]
    caplog.clear()
    with pytest.raises(ConfigurationError, match="POSTGRES_URL is not set"):
        DrainWorker(connection=fakeredis.FakeRedis(), settings=Settings()).bootstrap()
    assert caplog.messages == []


def test_a_job_that_another_worker_removed_meanwhile_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one does for which this worker was dead, as its cable was cut."""
    redis = fakeredis.FakeRedis()
    worker = DrainWorker(connection=redis)

    def removed(*_args: object) -> int:
        redis.delete("rq:job:drain-0")
        return 7

    monkeypatch.setitem(DrainJob.ALLOWED, jobs.DRAIN, removed)
    queue = Queue(QUEUE, connection=redis, serializer="json", job_class=DrainJob)
    job = queue.enqueue(jobs.DRAIN, 0, 1, job_id=jobs.job_id_of(0), result_ttl=0)
    execution = worker.prepare_execution(job)
    with caplog.at_level("INFO"):
        assert worker.perform_job(job, queue, execution)
    assert (
        "The worker had lost its lease of drain job drain-0: another worker has removed it meanwhile"
        in caplog.messages
    )
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
    assert not redis.keys("rq:execution*")


def test_a_subscription_that_its_own_thread_closes_at_the_same_moment_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended the process, where RQ's loop had ended with an error."""

    class Subscription:
        def stop(self) -> None:
            pass

        def close(self) -> None:
            raise AttributeError("'NoneType' object has no attribute 'deregister_connect_callback'")

    worker: Any = DrainWorker(connection=fakeredis.FakeRedis())
    monkeypatch.setattr(worker, "pubsub_thread", Subscription())
    monkeypatch.setattr(worker, "pubsub", Subscription(), raising=False)
    worker._close_subscription()


def test_a_registration_is_kept_for_one_time_whatever_the_worker_does() -> None:
    """By how long Redis keeps it yet, others see when it was last heard of."""
    redis = fakeredis.FakeRedis()
    worker = DrainWorker(connection=redis)
    worker.register_birth()
    assert redis.ttl(worker.key) == KEPT_S
    job = DrainJob.create("f", connection=redis, serializer="json")
    redis.expire(worker.key, 5)
    worker.heartbeat()
    assert redis.ttl(worker.key) == KEPT_S, "while it waits for a job"
    redis.expire(worker.key, 5)
    worker.maintain_heartbeats(job, worker.prepare_execution(job))
    assert redis.ttl(worker.key) == KEPT_S, "while it is at one"


class _Beating:
    """Stands for a worker whose Redis is away for a while."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.beats = 0

    def _register_again(self) -> None:
        pass

    def maintain_heartbeats(self, *_args: object) -> None:
        self.beats += 1
        if self.beats <= self.failures:
            raise redis_errors.ConnectionError("refused")


@pytest.mark.parametrize(
    ("lease_s", "failures", "says"),
    [
        (60.0, 0, []),
        (
            60.0,
            3,
            ["cannot renew its lease of drain job drain-0: refused", "renews its lease of drain job drain-0"],
        ),
        (
            0.0,
            2,
            ["cannot renew its lease of drain job drain-0: refused", "lost its lease of drain job drain-0"],
        ),
    ],
)
def test_a_lease_that_cannot_be_renewed_is_logged_once_and_so_is_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lease_s: float,
    failures: int,
    says: list[str],
) -> None:
    monkeypatch.setattr(worker_module, "BEAT_S", 0.001)
    monkeypatch.setattr(worker_module, "LEASE_S", lease_s)
    beating: Any = _Beating(failures)
    job: Any = SimpleNamespace(id="drain-0")
    with worker_module._Lease(beating, job, None):
        wait_until(lambda: beating.beats > failures + 1)
        monkeypatch.setattr(worker_module, "LEASE_S", 60.0)
    for message, part in zip(caplog.messages, says, strict=False):
        assert part in message
    assert len(caplog.messages) >= len(says)
    if lease_s:
        assert len(caplog.messages) == len(says)


def test_a_name_shows_host_and_process() -> None:
    worker = DrainWorker(connection=fakeredis.FakeRedis())
    assert re.fullmatch(rf"[A-Za-z0-9.-]+-{os.getpid()}-[0-9a-f]{{6}}", worker.name)
    assert DrainWorker(name="mine", connection=fakeredis.FakeRedis()).name == "mine"
