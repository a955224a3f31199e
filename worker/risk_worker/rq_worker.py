"""DrainWorker, the RQ worker class, and `run()`, which brings one up and keeps it up.

    riskstream worker
    rq worker -w risk_worker.rq_worker.DrainWorker risk-drain
    rq worker-pool -w risk_worker.rq_worker.DrainWorker risk-drain -n 2

all do the same: wait for Postgres, migrate, put the drain jobs on the queue, work. The first one waits for
Redis too; RQ's own commands want it there.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from time import sleep
from types import FrameType
from typing import Any, Final
from uuid import uuid4

import backoff
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker, worker_registration
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.worker import WorkerStatus

from risk_producer.connect import adopt, redis_client
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, mask
from risk_worker import jobs, migrations
from risk_worker.jobs import QUEUE, DrainJob, Roster, whereabouts

log = logging.getLogger("riskstream.worker")

LEASE_S: Final = 15
"""A worker that has not been heard of for so long has lost its jobs to others."""
BEAT_S: Final = 3
TICK_S: Final = 2
"""How often an idle worker looks whether a drain job is missing."""


class DrainWorker(SimpleWorker):  # type: ignore[misc]  # rq has no types
    """Runs drain jobs in its own process: a drain is long-lived and owns its connections."""

    def __init__(
        self, queues: Any = (QUEUE,), name: str | None = None, connection: Redis | None = None, **options: Any
    ) -> None:
        names = [queue.name if isinstance(queue, Queue) else queue for queue in _listed(queues)]
        if options.get("prepare_for_work", True) and names != [QUEUE]:
            # With one queue RQ moves a job atomically; with several a dying worker loses it.
            raise ConfigurationError(f"DrainWorker works on the queue {QUEUE} alone, got {', '.join(names)}")
        if connection is None and queues and isinstance(queues[0], Queue):
            connection = queues[0].connection
        if connection is not None:
            adopt(connection)  # made by `rq worker`
        options |= {
            "serializer": "json",
            "job_class": DrainJob,
            "maintenance_interval": TICK_S,
            "default_worker_ttl": None,
            "worker_ttl": TICK_S + 15,  # RQ waits for a job for 15 s less than this
        }
        super().__init__(names, name=name, connection=connection, **options)
        self._burst = False
        self._roster: Roster | None = None

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Before the first job: the database is there and migrated, the drain jobs are on the queue."""
        settings = Settings.load()
        self._drain_timeout_s = settings.drain_timeout_s
        if self._roster is None:
            migrations.wait_for(settings.require_database_url())
            migrations.up(settings.require_database_url())
        super().bootstrap(*args, **kwargs)
        self._roster = Roster(self.connection, settings.partitions, worker=self.name)
        self._roster.put_back(wait=True)
        log.info(
            "Ready: drains what waits in %d partition(s), stands by for what other workers hold",
            settings.partitions,
        )

    def work(self, *args: Any, burst: bool = False, **kwargs: Any) -> bool:
        """Work until stopped. RQ's own loop gives up when Redis is away for long; this one comes back."""
        self._burst = burst
        kwargs["with_scheduler"] = False  # rq worker-pool asks for one; nothing here is scheduled
        ends_by_itself = burst or kwargs.get("max_jobs") or kwargs.get("max_idle_time")
        worked = False
        while True:
            try:
                worked = super().work(*args, burst=burst, **kwargs) or worked
            except StopRequested:  # while it registered anew
                return worked
            except RedisError as error:
                log.error("Redis went away under the worker: %s", error)
                if self.pubsub_thread:  # RQ leaves it behind; it ends when it has seen this
                    self.pubsub_thread.stop()
            if self.stopping or ends_by_itself:
                return worked
            log.warning("RQ's loop has ended; starting again when Redis answers")
            self._state = WorkerStatus.IDLE  # no job is under way: a signal raises StopRequested
            try:
                _wait_for_redis(self.connection)
            except StopRequested:
                return worked
            self.name = uuid4().hex  # the old name is taken until its key expires
            sleep(BEAT_S / 10)

    @property
    def stopping(self) -> bool:
        """Whether a signal asked this worker to stop."""
        return self._shutdown_requested_date is not None

    def run_maintenance_tasks(self) -> None:
        self._heal()  # before RQ, which calls a job whose holder died a failed one
        super().run_maintenance_tasks()

    def serialize(self) -> dict[str, Any]:
        """What Redis knows of this worker."""
        return {**super().serialize(), "whereabouts": whereabouts()}

    def register_death(self) -> None:
        """RQ would keep what is left of it for another minute."""
        super().register_death()
        self.connection.delete(self.key)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """One shift under a lease that a thread keeps up; then the job goes back on the queue."""
        self._register_again()
        if self._burst:
            job.args = (*job.args, True)
        execution = self.prepare_execution(job)
        with _Lease(self, job, execution):
            self.perform_job(job, queue, execution)
        self.set_state("idle")
        self._heal()

    def _register_again(self) -> None:
        """Redis may have lost its data since this worker's birth, and RQ's heartbeat says only part of it."""
        with self.connection.pipeline() as pipeline:
            worker_registration.register(self, pipeline)
            pipeline.hset(self.key, mapping=self.serialize())
            pipeline.execute()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return LEASE_S

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: finish the batch in hand, within RISK_DRAIN_TIMEOUT_S. Second: leave at once."""
        deadline = threading.Timer(self._drain_timeout_s, _leave, (self._drain_timeout_s,))
        deadline.daemon = True
        deadline.start()
        jobs.stop.set()
        super().request_stop(signum, frame)

    def set_shutdown_requested_date(self) -> None:
        """RQ would talk to Redis here, inside a signal handler, and Redis may be away."""

    def _heal(self) -> None:
        if self._roster is not None and not self._burst:
            self._roster.put_back()


class _Lease:
    """Tells the others that the job's holder lives, every BEAT_S from a thread of its own."""

    def __init__(self, worker: DrainWorker, job: Job, execution: Execution) -> None:
        self._worker = worker
        self._job = job
        self._execution = execution
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                self._worker.maintain_heartbeats(self._job, self._execution)
            except RedisError as error:
                log.warning("The lease of %s could not be renewed: %s", self._job.id, error)


def _leave(after_s: float) -> None:
    """End the process, whatever hangs. A crash at any place is harmless, so this is: the batch in hand is
    stored or it is not, and what is not acknowledged comes again."""
    log.critical("Did not come to an end within %g s (RISK_DRAIN_TIMEOUT_S); leaving at once", after_s)
    os._exit(1)


def run(settings: Settings, *, burst: bool = False) -> None:
    """`riskstream worker`: wait for Redis and Postgres, migrate, work until stopped."""
    settings.require_database_url()
    url = settings.require_rq_redis_url()
    settings.require_redis_url()
    with redis_client(url, answer_timeout_s=5, connect_timeout_s=5, retries=10) as connection:
        _wait_for_redis(connection, url)
        worker = DrainWorker([QUEUE], connection=connection)
        worker.work(burst=burst)
    if not burst and not worker.stopping:
        sys.exit(1)


def _wait_for_redis(connection: Redis, url: str = "") -> None:
    """Until it answers; says so once and then every time the reason changes."""
    said = ""

    def say(details: Any) -> None:
        nonlocal said
        if str(details["exception"]) != said:
            said = str(details["exception"])
            log.warning("Waiting for Redis %s: %s", mask(url), said)

    backoff.on_exception(backoff.expo, RedisError, factor=0.1, max_value=2, on_backoff=say, logger=None)(
        connection.ping
    )()


def _listed(queues: Any) -> Sequence[Any]:
    return [queues] if isinstance(queues, (str, Queue)) else list(queues)
