"""The drain jobs' scheduler: the job of every share is queued, or held by a worker that is alive.

There are as many shares of the partitions as workers that are alive, and no more than partitions. A job that
is queued for another number of shares is replaced or removed; the holder of one ends by itself
(time_slice.py).

Nothing that it reads is trusted: a key of RQ's that cannot be read is named in the log, and made anew.
Nothing depends on two machines' clocks: a worker is alive as long as its lease keeps changing.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from operator import methodcaller
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError, WatchError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.job import JobStatus

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_worker.runtime.jobs import DRAIN, DRAIN_PARTITION, DrainJob, job_id_of, partitions_of
from risk_worker.stream.bindings import OtherDatabase, claim_drain_jobs
from risk_worker.stream.workers import LEASE_S, QUEUE, LiveWorkers, age_s, process_host, runs

log = logging.getLogger("riskstream.scheduler")

# RQ reads its prefix when it is imported; rq_prefix.py checks that it is the namespace's.
QUEUE_KEY: Final = f"{RQ_KEY_PREFIX}:queue:{QUEUE}"
TRANSIT_KEY: Final = f"{QUEUE_KEY}:intermediate"
LEASES_KEY: Final = f"{RQ_KEY_PREFIX}:wip:{QUEUE}"
ALL_WORKERS_KEY: Final = f"{RQ_KEY_PREFIX}:workers"
WORKERS_KEY: Final = f"{ALL_WORKERS_KEY}:{QUEUE}"

_REGISTRIES: Final = [
    f"{RQ_KEY_PREFIX}:{name}:{QUEUE}" for name in ("finished", "failed", "canceled", "deferred", "scheduled")
]
_TYPES: Final = {
    f"{RQ_KEY_PREFIX}:queues": b"set",
    ALL_WORKERS_KEY: b"set",
    WORKERS_KEY: b"set",
    QUEUE_KEY: b"list",
    TRANSIT_KEY: b"list",
    LEASES_KEY: b"zset",
    **dict.fromkeys(_REGISTRIES, b"zset"),
}
# What RQ and this module write into the hash of a drain job that is queued or under way.
_FIELDS: Final = {
    *("created_at", "data", "origin", "description", "enqueued_at", "timeout", "result_ttl", "failure_ttl"),
    *("status", "started_at", "ended_at", "last_heartbeat", "worker_name"),
}
_EXECUTION: Final = f"{RQ_KEY_PREFIX}:execution:".encode()
_EMPTY: Final = (b"", b"[]", b"{}")
LOG_AGAIN_S: Final = 60.0
"""A line that says the same is not logged again within this time."""
_JOB_ID: Final = re.compile(rb"drain-(\d{1,4})")


class Condition(Enum):
    """Where a drain job is."""

    HELD = "held by a worker that is alive"
    QUEUED = "queued"
    OUTDATED = "queued for another number of shares"
    IN_TRANSIT = "taken from the queue a moment ago"
    ABSENT = "absent"
    UNREADABLE = "unreadable"
    LOST = "queued, but in no queue"
    ABANDONED = "held by a worker that is dead"
    ENDED = "at its end"

    @property
    def is_fine(self) -> bool:
        """Whether the job may stay as it is."""
        return self in (Condition.HELD, Condition.QUEUED, Condition.IN_TRANSIT)


@dataclass(slots=True)
class _Seen:
    """One read of everything that decides where a drain job is."""

    fields: Any
    """The job's hash, or the error where the key is none."""
    queued: Any
    leases: Any


class DrainScheduler:
    """Enqueues what is missing, and removes what dead workers left. Thread-safe."""

    TRANSIT_S: Final = 1.5
    """The transit grace period: a job that left the queue so long ago and is not under way was taken by a
    worker that died."""

    def __init__(
        self,
        connection: RedisClient,
        partitions: int,
        *,
        worker: str = "",
        keyspace: Keyspace = NO_NAMESPACE,
        identity: str | None = None,
        read_identity: Callable[[], str] | None = None,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """worker: the name of the one in this process; other registrations with its pid are dead.

        partitions: how many there are, of all namespaces together; `partitions` of the object may be changed.
        identity: of the database that the jobs store into; None: the jobs may be another one's.
        read_identity: reads it again where Redis names another one.
        """
        self.worker = worker
        self._connection: Any = connection  # redis-py's types cannot tell bytes from str here
        self.partitions = partitions
        self._keyspace = keyspace
        self._identity = identity
        self._read_identity = read_identity
        self._lease_s = lease_s
        self._clock = clock
        self._workers = LiveWorkers(keyspace, lease_s=lease_s, clock=clock)
        self._shares = 0  # as they were last seen
        self._queue = Queue(QUEUE, connection=connection, job_class=DrainJob, serializer="json")
        self._lock = threading.Lock()
        self._leases: dict[bytes, tuple[float, float]] = {}  # lease -> its score, since when it is that
        self._transits: dict[str, tuple[Any, float]] = {}  # job -> enqueued at, first seen in transit at
        self._failed_at: dict[str, float] = {}  # line of the log -> when it was last logged

    def shares(self) -> int:
        """How many shares of the partitions there should be now: one for each worker that is alive."""
        shares = max(1, min(self.partitions, self._workers.count(self._connection)))
        if shares != self._shares:
            log.info(
                "The %d partition(s) are drained in %d share(s), one for each worker",
                self.partitions,
                shares,
            )
        self._shares = shares
        return shares

    def ensure_enqueued(self) -> list[str]:
        """Enqueue the drain jobs that are neither queued nor held; remove those of another number of shares.

        Returns the ids of those that were enqueued. Raises OtherDatabase.
        """
        self._claim()  # it may ask Postgres, which may not answer
        with self._lock:
            self.check_types()
            self.remove_dead_workers()
            shares = self.shares()
            numbers = sorted({*range(self.partitions), *self._queued()})
            seen = self._read(numbers)
            self._watch_leases(seen)
            held = {lease for each in seen for lease, _ in each.leases}
            self._leases = {lease: of for lease, of in self._leases.items() if lease in held}
            wrong = [
                number
                for number, each in zip(numbers, seen, strict=True)
                if not self._is_right(number, shares, self._condition(number, shares, each))
            ]
            changed = [number for number in wrong if self._put_right(number, shares)]
            return [job_id_of(number) for number in changed if number < shares]

    def _claim(self) -> None:
        """Write whose the drain jobs are, where nothing is written yet. Raises OtherDatabase."""
        if self._identity is None:
            return
        try:
            claim_drain_jobs(self._connection, self._keyspace, self._identity)
        except OtherDatabase:
            if self._read_identity is None:
                raise
            self._identity = self._read_identity()  # the database may have another one by now
            claim_drain_jobs(self._connection, self._keyspace, self._identity)

    def condition(self, share: int, shares: int) -> Condition:
        """Where the drain job of one of so many shares is now."""
        [seen] = self._read([share])
        self._watch_leases([seen])
        return self._condition(share, shares, seen)

    def remove_dead_workers(self) -> None:
        """Remove what workers that were killed hold and leave.

        RQ would keep it until it expires, and a worker that is started and killed again and again would fill
        Redis and the dashboard.
        """
        names: set[bytes] = self._connection.smembers(WORKERS_KEY)
        bad = [each for each in names | self._connection.smembers(ALL_WORKERS_KEY) if not _is_text(each)]
        for member in bad:
            log.error("Redis' key %s had %r, which is no worker's key: removed", ALL_WORKERS_KEY, member)
            self._connection.srem(ALL_WORKERS_KEY, member)
            self._connection.srem(WORKERS_KEY, member)
        for key in sorted(name.decode() for name in names if name not in bad):
            if (why := self._is_dead(key)) is not None:
                log.log(*why)
                self.remove_worker(key)

    def remove_worker(self, key: str) -> None:
        """Remove a worker's registration, and the leases that it holds."""
        try:
            leases = self._connection.smembers(f"{key}:executions")
        except ResponseError:
            leases = set()
        with self._connection.pipeline() as pipeline:
            for lease in leases:
                pipeline.delete(_EXECUTION + lease)
                pipeline.zrem(LEASES_KEY, lease)
            pipeline.srem(WORKERS_KEY, key)
            pipeline.srem(ALL_WORKERS_KEY, key)
            pipeline.delete(key, f"{key}:executions")
            pipeline.execute()

    def release_name(self, key: str) -> bool:
        """Remove the registration of a dead worker under this key. False: a worker that is alive has it."""
        if not self._connection.exists(key):
            return True
        why = self._is_dead(key)
        silent_s = age_s(self._connection.hget(key, "last_heartbeat"), datetime.now(UTC))
        if why is None and silent_s > self._lease_s:
            why = (logging.WARNING, "%s has sent no heartbeat for %.0f s: its name is free", key, silent_s)
        if why is None:
            return False
        log.log(*why)
        self.remove_worker(key)
        return True

    @staticmethod
    def _is_right(number: int, shares: int, condition: Condition) -> bool:
        return condition.is_fine or (number >= shares and condition is Condition.ABSENT)

    def _queued(self) -> set[int]:
        """The numbers of the drain jobs on the queue, whichever they are."""
        found = (_JOB_ID.fullmatch(job_id) for job_id in self._connection.lrange(QUEUE_KEY, 0, -1))
        return {
            int(match[1])
            for match in found
            if match is not None and match[0] == job_id_of(int(match[1])).encode()
        }

    def _put_right(self, number: int, shares: int) -> bool:
        """Delete what is there of a job, and enqueue it anew where there should be such a share.

        False: there is nothing to be done, as another worker did it meanwhile.
        """
        job_id = job_id_of(number)
        with self._connection.pipeline() as pipeline:
            try:
                pipeline.watch(DrainJob.key_for(job_id), QUEUE_KEY, TRANSIT_KEY, LEASES_KEY)
                [seen] = self._read([number], pipeline)
                self._watch_leases([seen])
                condition = self._condition(number, shares, seen)
                if self._is_right(number, shares, condition):
                    return False
                pipeline.multi()
                self._delete(pipeline, job_id, seen)
                if number < shares:
                    self._enqueue(pipeline, number, shares)
                pipeline.execute()
            except WatchError:
                return False  # another worker was quicker, or the job moves: the next look shows it
            except REDIS_ERRORS as error:
                self._failed(job_id, error)
                raise
        self._transits.pop(job_id, None)
        if condition not in (Condition.ABSENT, Condition.QUEUED, Condition.OUTDATED):
            done = "Re-enqueued" if number < shares else "Removed"
            log.warning("%s drain job %s: it was %s", done, job_id, condition.value)
        now = self.condition(number, shares)
        if not self._is_right(number, shares, now) and now not in (Condition.ABSENT, Condition.OUTDATED):
            self._failed(job_id, f"it is {now.value} all the same")
        return True

    def _enqueue(self, pipeline: Any, share: int, shares: int) -> None:
        partitions = partitions_of(share, shares, range(self.partitions))
        self._queue.enqueue_call(
            DRAIN,
            args=(share, shares),
            job_id=job_id_of(share),
            timeout=-1,
            result_ttl=0,
            failure_ttl=3600,
            description=f"drain share {share} of {shares}: {len(partitions)} partition(s)",
            pipeline=pipeline,
        )
        pipeline.hincrby(self._keyspace.drain_jobs, "enqueued", 1)

    def _delete(self, pipeline: Any, job_id: str, seen: _Seen) -> None:
        """Everything that there may be of a job."""
        pipeline.delete(
            *(f"{RQ_KEY_PREFIX}:{what}:{job_id}" for what in ("job", "executions", "results")),
            *(f"{DrainJob.key_for(job_id)}:{what}" for what in ("dependents", "dependencies")),
        )
        pipeline.lrem(QUEUE_KEY, 0, job_id)
        pipeline.lrem(TRANSIT_KEY, 0, job_id)
        for lease, _ in seen.leases:
            pipeline.delete(_EXECUTION + lease)
            pipeline.zrem(LEASES_KEY, lease)
        for registry in _REGISTRIES:
            pipeline.zrem(registry, job_id)

    def _failed(self, job_id: str, why: object) -> None:
        line, now = f"Drain job {job_id} could not be enqueued: {why}", self._clock()
        if now - self._failed_at.get(line, -math.inf) >= LOG_AGAIN_S:
            log.error("%s", line)
            self._failed_at = {each: at for each, at in self._failed_at.items() if now - at < LOG_AGAIN_S}
            self._failed_at[line] = now
        try:
            self._connection.hincrby(self._keyspace.drain_jobs, "failed", 1)
        except REDIS_ERRORS as error:
            log.debug("This could not be counted: %s", error)

    def _read(self, numbers: Sequence[int], watching: Any = None) -> list[_Seen]:
        """What decides about these jobs: in one transaction, or one by one on a pipeline that watches."""
        questions: list[Callable[[Any], Any]] = [
            lambda ask: ask.lrange(QUEUE_KEY, 0, -1),
            lambda ask: ask.zrange(LEASES_KEY, 0, -1, withscores=True),
            *(methodcaller("hgetall", DrainJob.key_for(job_id_of(number))) for number in numbers),
        ]
        if watching is not None:
            answers = [_answer(question, watching) for question in questions]
        else:
            with self._connection.pipeline() as pipeline:
                for question in questions:
                    question(pipeline)
                answers = pipeline.execute(raise_on_error=False)
        queued, leases, *hashes = answers
        for answer in (queued, leases):
            if isinstance(answer, Exception):
                raise answer
        return [
            _Seen(
                fields,
                job_id_of(number).encode() in queued,
                [each for each in leases if each[0].rpartition(b":")[0] == job_id_of(number).encode()],
            )
            for number, fields in zip(numbers, hashes, strict=True)
        ]

    def _condition(self, number: int, shares: int, seen: _Seen) -> Condition:
        job_id = job_id_of(number)
        condition = self._classify(number, shares, seen)
        if condition is not Condition.IN_TRANSIT:
            self._transits.pop(job_id, None)
            return condition
        enqueued_at = seen.fields.get(b"enqueued_at")
        before, since = self._transits.get(job_id, (None, 0.0))
        if before != enqueued_at:
            since = self._clock()
            self._transits[job_id] = (enqueued_at, since)
        # Taken a moment ago, or taken by a worker that died before it began.
        return condition if self._clock() - since < self.TRANSIT_S else Condition.LOST

    def _classify(self, number: int, shares: int, seen: _Seen) -> Condition:
        # Whatever is in the hash, the holder of a lease drains, and enqueues the job when it is done.
        if any(self._is_alive(lease) for lease, _ in seen.leases):
            return Condition.HELD
        if isinstance(seen.fields, Exception):
            return Condition.UNREADABLE
        if not seen.fields:
            return Condition.ABSENT
        of = _shares_of(number, seen.fields, self._connection)
        if of is None:
            return Condition.UNREADABLE
        status = seen.fields[b"status"].decode()
        if status not in (JobStatus.QUEUED.value, JobStatus.STARTED.value):
            return Condition.ENDED
        if seen.queued:
            return Condition.QUEUED if of == shares else Condition.OUTDATED
        return Condition.IN_TRANSIT if status == JobStatus.QUEUED.value else Condition.ABANDONED

    def _watch_leases(self, seen: Iterable[_Seen]) -> None:
        """A lease is alive while Redis has not let its execution expire and while its score changes, as seen
        by the clock of this process: the holder's own clock may be wrong."""
        now = self._clock()
        leases = dict(lease for each in seen for lease in each.leases)
        with self._connection.pipeline(transaction=False) as pipeline:
            for lease in leases:
                pipeline.exists(_EXECUTION + lease)
            exists = pipeline.execute()
        for (lease, score), there in zip(leases.items(), exists, strict=True):
            if not there:
                self._leases[lease] = (score, -math.inf)
            elif self._leases.get(lease, (None, 0.0))[0] != score:
                self._leases[lease] = (score, now)

    def _is_alive(self, lease: bytes) -> bool:
        return self._clock() - self._leases[lease][1] < self._lease_s

    def check_types(self) -> None:
        """RQ cannot work while one of its keys is of another type."""
        types = {**_TYPES, self._keyspace.drain_jobs: b"hash", self._keyspace.database: b"string"}
        for partition in range(self.partitions):
            types[f"{RQ_KEY_PREFIX}:executions:{job_id_of(partition)}"] = b"zset"
        with self._connection.pipeline(transaction=False) as pipeline:
            for key in types:
                pipeline.type(key)
            found = dict(zip(types, pipeline.execute(), strict=True))
        for key, kind in found.items():
            if kind not in (b"none", types[key]):
                log.error(
                    "Redis' key %s was a %s, where RQ keeps a %s: deleted",
                    key,
                    kind.decode(),
                    types[key].decode(),
                )
                self._connection.delete(key)

    def _is_dead(self, key: str) -> tuple[Any, ...] | None:
        """What to log where it can be seen that the worker is dead, or where its registration cannot be read,
        which a worker that is alive makes anew. None: it is alive, or its lease has to run out."""
        kind = self._connection.type(key)
        if kind == b"none":
            return (logging.DEBUG, "%s is gone", key)
        if kind != b"hash":
            return (
                logging.ERROR,
                "Redis' key %s was a %s, where RQ keeps a hash: deleted",
                key,
                kind.decode(),
            )
        raw_pid, raw_host = self._connection.hmget(key, "pid", "process_host")
        if raw_pid is None or raw_host is None:
            return None
        try:
            pid, host = int(raw_pid), raw_host.decode()
        except ValueError:
            return (logging.ERROR, "Redis' key %s had pid %r on host %r: deleted", key, raw_pid, raw_host)
        if host != process_host():
            return None
        dead = key != worker_key(self.worker) if pid == os.getpid() else not runs(pid)
        return (logging.WARNING, "%s is dead", key) if dead else None


def worker_key(name: str) -> str:
    """Of a worker's registration."""
    return f"{RQ_KEY_PREFIX}:worker:{name}"


def _shares_of(number: int, fields: Any, connection: Any) -> int | None:
    """Of how many shares the job drains this one; 0: it is of a version before the shares; None: RQ cannot
    read it, or it is another job."""
    try:
        unknown = {
            name for name, value in fields.items() if name.decode() not in _FIELDS and value not in _EMPTY
        }
        job = DrainJob(job_id_of(number), connection=connection, serializer="json")
        job.restore(fields)
        sound = (
            not unknown
            and b"status" in fields
            and (job.origin, dict(job.kwargs)) == (QUEUE, {})
            and (job.timeout, job.result_ttl, job.group_id) == (-1, 0, None)
        )
        if not sound:
            return None
        if (job.func_name, list(job.args)) == (DRAIN_PARTITION, [number]):
            return 0
        share, shares = job.args
        is_drain = job.func_name == DRAIN and share == number and isinstance(shares, int) and shares > share
        return shares if is_drain else None
    except Exception:  # noqa: BLE001  # whatever RQ raises on it, it cannot read it
        return None


def _answer(question: Callable[[Any], Any], ask: Any) -> Any:
    try:
        return question(ask)
    except ResponseError as error:
        return error


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
