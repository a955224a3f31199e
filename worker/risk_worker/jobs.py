"""The RQ job: one drain a partition, under a fixed id, and the roster that puts missing ones back."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError
from rq import Queue, worker_registration
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.utils import parse_composite_key

from risk_producer.settings import Settings
from risk_worker import source
from risk_worker.drain import Patience, SourceUnavailable, drain
from risk_worker.floors import Floors
from risk_worker.store import PostgresStore
from risk_worker.stray import Watch

log = logging.getLogger("riskstream.jobs")

QUEUE: Final = "risk-drain"
SHIFT_S: Final = 20.0
SHORT_SHIFT_S: Final = 1.0  # where more partitions wait for a worker than there are workers

stop: Final = threading.Event()
"""Set once, by the worker's signal handler: finish the batch in hand."""

_stray: Final = Watch()


def drain_partition(partition: int, until_empty: bool = False) -> int:
    """The job: drain a partition for a shift, or until it is empty. Returns how many entries were settled."""
    settings = Settings.load()
    rq = Redis.from_url(settings.require_rq_redis_url(), socket_timeout=5)
    client = source.connect(settings.require_redis_url())
    patience = Patience(
        retries=settings.max_retries,
        base_s=settings.backoff_base_ms / 1000,
        cap_s=settings.backoff_cap_ms / 1000,
    )
    floors = Floors.from_settings(settings, client, partition)
    with rq, client, floors, PostgresStore(settings.require_database_url()) as store:
        floors.look()
        stream = source.StreamSource.from_settings(settings, client, partition, floors.look)
        over = stream.is_empty if until_empty else _shift_is_over(rq)
        with contextlib.suppress(SourceUnavailable, RedisError):  # the next shift will do
            stream.forget()
            _stray.look(client, settings.partitions)
        settled = drain(stream, store, stop=stop, over=over, patience=patience)
    if settled:
        log.info("Partition %d: %d entries settled in this shift", partition, settled)
    return settled


def _shift_is_over(rq: Redis) -> Callable[[], bool]:
    """After SHIFT_S; after SHORT_SHIFT_S when another partition waits for a worker."""
    began = monotonic()
    looked = began

    def over() -> bool:
        nonlocal looked
        now = monotonic()
        if now - began >= SHIFT_S:
            return True
        if now - looked < SHORT_SHIFT_S:
            return False
        looked = now
        try:
            return bool(rq.llen(f"rq:queue:{QUEUE}"))
        except RedisError:
            return False

    return over


class DrainJob(Job):  # type: ignore[misc]  # rq has no types
    """Runs what is on the allowlist and nothing else, whatever somebody wrote into Redis."""

    ALLOWED: Final = {"risk_worker.jobs.drain_partition": drain_partition}

    @property
    def func(self) -> Callable[..., Any]:
        try:
            return self.ALLOWED[self.func_name]
        except KeyError:
            raise PermissionError(f"{self.func_name} is not a job of riskstream") from None

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, *_args: object, **_kwargs: object) -> None:
        return None


@cache
def whereabouts() -> str:
    """Where a pid means something: host, boot and pid namespace. Two containers may share a host name."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if boot.exists():
        parts.append(boot.read_text().strip())
    if namespace.exists():
        parts.append(str(namespace.stat().st_ino))
    return "/".join(parts)


class Roster:
    """Sees that every partition has its drain job: queued, or running under a worker that lives."""

    LOCK_S: Final = 3.0  # some ms are needed; a worker that dies meanwhile holds the others up for so long
    LIMBO_S: Final = 1.5

    def __init__(self, connection: Redis, partitions: int, *, worker: str) -> None:
        self._connection: Any = connection  # redis-py's types cannot tell bytes from str here
        self._partitions = partitions
        self._worker = worker
        self._queue = Queue(QUEUE, connection=connection, job_class=DrainJob, serializer="json")
        self._limbo: dict[str, float] = {}

    def put_back(self, *, wait: bool = False) -> list[str]:
        """Enqueue the drain jobs that are missing, after burying the dead. Returns their ids.

        One worker at a time does it.
        wait: until another one is done with it, or dead; otherwise it is left to that one.
        """
        lock = self._connection.lock(f"risk:roster:{QUEUE}", timeout=self.LOCK_S)
        if not lock.acquire(blocking=wait, blocking_timeout=self.LOCK_S + 1):
            return []
        try:
            self._bury_the_dead()
            return [job_id_of(p) for p in range(self._partitions) if self._put_back(p)]
        finally:
            with contextlib.suppress(LockNotOwnedError):
                lock.release()

    def _put_back(self, partition: int) -> bool:
        job_id = job_id_of(partition)
        missing = self._missing(job_id)
        if missing is None:
            return False
        if missing:
            log.warning("%s was %s; putting it back", job_id, missing)
        try:
            old = self._queue.fetch_job(job_id)
            if old is not None:
                # Job.delete() raises where an execution expired that this registry still names.
                self._connection.delete(old.execution_registry.key)
                old.delete()
            self._connection.lrem(self._queue.intermediate_queue_key, 0, job_id)
            self._queue.enqueue_call(
                "risk_worker.jobs.drain_partition",
                args=(partition,),
                job_id=job_id,
                unique=True,
                timeout=-1,
                result_ttl=0,
                failure_ttl=3600,
                description=f"drain partition {partition}",
            )
        except DuplicateJobError:
            return False
        self._limbo.pop(job_id, None)
        return True

    def _missing(self, job_id: str) -> str | None:
        """Why the job has to be put back: "" where there was none; None: it is where it should be."""
        try:
            job = DrainJob.fetch(job_id, connection=self._connection, serializer="json")
        except NoSuchJobError:
            return ""
        status = job.get_status()
        if status == JobStatus.STARTED:
            return None if self._is_held(job) else "held by a worker that is dead"
        if status != JobStatus.QUEUED:
            return str(status.value)
        if job_id.encode() in self._connection.lrange(self._queue.key, 0, -1):
            self._limbo.pop(job_id, None)
            return None
        # Popped a moment ago, or popped by a worker that died before it began.
        if monotonic() - self._limbo.setdefault(job_id, monotonic()) < self.LIMBO_S:
            return None
        return "queued, but in no queue"

    def _is_held(self, job: Job) -> bool:
        registry = job.started_job_registry
        for execution, lease_ends in self._connection.zrange(registry.key, 0, -1, withscores=True):
            if parse_composite_key(execution.decode())[0] != job.id:
                continue
            if lease_ends >= time():
                return True
            self._connection.zrem(registry.key, execution)
        return False

    def _bury_the_dead(self) -> None:
        """What workers hold and leave that died without a word. RQ would keep it until it expires, and a
        worker that is started and killed again and again would fill Redis and the dashboard."""
        for key in worker_registration.get_keys(self._queue):
            if not self._is_dead(key):
                continue
            log.warning("%s is dead", key)
            executions = self._connection.smembers(f"{key}:executions")
            with self._connection.pipeline() as pipeline:
                for each in executions:
                    pipeline.delete(f"rq:execution:{each.decode()}")
                    pipeline.zrem(self._queue.started_job_registry.key, each)
                pipeline.srem(worker_registration.WORKERS_BY_QUEUE_KEY % QUEUE, key)
                pipeline.srem(worker_registration.REDIS_WORKER_KEYS, key)
                pipeline.delete(key, f"{key}:executions")
                pipeline.execute()

    def _is_dead(self, key: str) -> bool:
        """Whether it can be seen that the worker is dead; where it cannot, its lease has to run out."""
        pid, lived = self._connection.hmget(key, "pid", "whereabouts")
        if pid is None or lived is None or lived.decode() != whereabouts():
            return False
        if int(pid) == os.getpid():
            return key != f"rq:worker:{self._worker}"
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def job_id_of(partition: int) -> str:
    """The fixed id of a partition's drain job."""
    return f"drain-{partition}"
