"""Workers whose processes end, or freeze, between any two calls of Redis: the real code of RQ and of the
scheduler, with a client that counts.

Time is passed in: a worker classifies leases by a clock of its own that a test moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

import redis
from redis.client import Pipeline
from rq import Queue
from rq.timeouts import TimerDeathPenalty

from risk_worker.runtime.jobs import DRAIN, DrainJob, job_id_of, partitions_of
from risk_worker.runtime.scheduler import DrainScheduler
from risk_worker.runtime.worker import DrainWorker
from risk_worker.stream.workers import LEASE_S, QUEUE


class Killed(BaseException):
    """The process is gone."""


class Fate:
    """Where a process freezes or ends: before its call number `at`; None: nowhere. The dead call no more."""

    def __init__(self, at: int | None = None, *, freezes: bool = False) -> None:
        self.at = at
        self.freezes = freezes
        self.calls = 0
        self.dead = False
        self.frozen = threading.Event()
        self._thawed = threading.Event()

    def call(self) -> None:
        if self.calls == self.at and self.freezes:
            self.frozen.set()
            assert self._thawed.wait(30)
        if self.calls == self.at and not self.freezes:
            self.dead = True
        if self.dead:
            raise Killed
        self.calls += 1

    def thaw(self, *, dies_after: int | None) -> None:
        self.freezes = False
        self.at = None if dies_after is None else self.calls + dies_after
        self._thawed.set()


class MortalPipeline(Pipeline):
    """What it sends at once is one call."""

    fate: Fate

    def execute(self, raise_on_error: bool = True) -> Any:
        self.fate.call()
        return super().execute(raise_on_error)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        self.fate.call()
        return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]


class MortalRedis(redis.Redis):
    """Asks the fate of its process before each call."""

    fate: Fate

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.fate.call()
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        made = MortalPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.fate = self.fate
        return made


class Worker(DrainWorker):
    """A worker on a host of its own, which drains by noting that it did, with one heartbeat amid the job."""

    death_penalty_class = TimerDeathPenalty

    def __init__(self, name: str, url: str, partitions: int, drained: list[int], fate: Fate) -> None:
        connection: Any = MortalRedis.from_url(url)
        connection.fate = Fate()  # its constructor asks, too
        super().__init__([QUEUE], name=name, connection=connection)
        connection.fate = fate
        self.fate = fate
        self.now = 0.0
        self.drained = drained
        self.partitions = partitions
        self._scheduler = DrainScheduler(self.connection, partitions, worker=name, clock=lambda: self.now)

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), "process_host": f"host of {self.name}"}

    def perform_job(self, job: Any, queue: Any, execution: Any) -> bool:
        def drain(share: int, shares: int) -> int:
            self.maintain_heartbeats(job, execution)
            self.drained += partitions_of(share, shares, range(self.partitions))
            return 0

        class Job(DrainJob):
            ALLOWED = {DRAIN: drain}  # type: ignore[misc]  # noqa: RUF012

        job.__class__ = Job
        return bool(super().perform_job(job, queue, execution))

    def tick(self, *, after_s: float = 0.0) -> None:
        """Its clock moves, then it is heard of, and looks after the drain jobs."""
        self.now += after_s
        self.heartbeat()
        assert self._scheduler is not None
        self._scheduler.ensure_enqueued()

    def run_job(self) -> bool:
        """Take a job from the queue and do it. False: there was none."""
        taken = Queue.dequeue_any(
            self.queues, None, connection=self.connection, job_class=DrainJob, serializer=self.serializer
        )
        if taken is None:
            return False
        self.execute_job(*taken)
        return True

    def live(self, *, patient: bool = False, jobs: int = 2) -> None:
        """From its birth over some jobs to its end. patient: it waits until what is dead is known to be."""
        self.register_birth()
        self.tick()
        if patient:
            self.wait_for_the_dead()
        for _ in range(jobs):
            self.run_job()
        self.register_death()

    def wait_for_the_dead(self) -> None:
        """Longer than a transit, and longer than a lease: the bound within which every job is back."""
        self.tick(after_s=DrainScheduler.TRANSIT_S + 0.1)
        self.tick(after_s=LEASE_S + 1)
        self.tick(after_s=DrainScheduler.TRANSIT_S + 0.1)


class Process:
    """A worker in a thread, which may freeze."""

    def __init__(self, worker: Worker, life: Callable[[], None]) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._life = life
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._over = threading.Event()

    def _run(self) -> None:
        try:
            self._life()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001
            self.error = error
        finally:
            self._over.set()
            self.worker.fate.frozen.set()

    def start(self) -> Self:
        """Until it is frozen, or over."""
        self._thread.start()
        assert self.worker.fate.frozen.wait(30)
        return self

    def go_on(self, *, dies_after: int | None) -> None:
        """To its end, or for so many calls."""
        self.worker.fate.thaw(dies_after=dies_after)
        assert self._over.wait(30)


def check(client: Any, url: str, partitions: int) -> None:
    """Within the bound a survivor has all partitions as its share, and drains them again and again."""
    drained: list[int] = []
    survivor = Worker("survivor", url, partitions, drained, Fate())
    survivor.register_birth()
    survivor.tick()
    survivor.wait_for_the_dead()
    for _ in range(2):
        assert client.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job_id_of(0).encode()]
        drained.clear()
        assert survivor.run_job()
        assert drained == list(range(partitions))
    survivor.register_death()
    survivor.connection.close()
