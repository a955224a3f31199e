"""DrainWorker, the RQ worker class, and `run()`, which brings one up and keeps it up.

    riskstream worker
    rq worker -w risk_worker.runtime.worker.DrainWorker risk-drain
    rq worker-pool -w risk_worker.runtime.worker.DrainWorker risk-drain -n 2

all do the same: wait for Postgres, migrate, put the drain jobs on the queue, work. The first one waits for
Redis too; RQ's own commands want it there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from math import inf
from time import monotonic, sleep
from types import FrameType
from typing import Any, Final, NamedTuple
from uuid import uuid4

import backoff
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import SimpleWorker, worker_registration
from rq.exceptions import InvalidJobOperation, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import WorkerStatus

from risk_producer.errors import ConfigurationError, RiskError
from risk_producer.settings import Settings, mask, warn_of_misspelt
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, adopt, redis_client
from risk_producer.transport.servers import AWAY
from risk_worker.database import grants, migrations
from risk_worker.database.commit_watch import NAMED_AFTER_S
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable
from risk_worker.recovery import assignment, partitioning
from risk_worker.runtime import connected, health, jobs, rq_log, rq_prefix
from risk_worker.runtime.jobs import DrainJob
from risk_worker.runtime.retention import Retention
from risk_worker.runtime.scheduler import LOG_AGAIN_S, DrainScheduler, worker_key
from risk_worker.runtime.sealing import Sealing
from risk_worker.stream import progress, source
from risk_worker.stream.bindings import Bindings, OtherDatabase, claim_drain_jobs
from risk_worker.stream.workers import (
    CANNOT_STORE_FIELD,
    COMMIT_WAIT_FIELD,
    KEPT_S,
    LEASE_S,
    PROCESS_HOST_FIELD,
    QUEUE,
    REASON_MAX,
    RUNS_FIELD,
    RUNS_SHARES,
    process_host,
)

log = logging.getLogger("riskstream.worker")

BEAT_S: Final = 3
"""How often a worker renews its lease, and looks whether a drain job is missing."""
LOOK_S: Final = 1
"""How often a busy worker looks how many workers there are."""
PROGRESS_S: Final = 5
"""How often a worker looks whether the partitions are drained."""
PAUSES_S: Final = (0.3, 10.0)
"""The first and the longest pause between two tries to work with RQ, while its loop ends at once."""
DIRECTLY_S: Final = 1.0
"""For how long at the most a worker drains without RQ before it looks at RQ again."""
IDLE_S: Final = 0.5
"""How often a worker that drains without RQ looks for new snapshots."""


class NameTaken(ValueError):
    """A running worker has this name already. RQ, too, raises a ValueError then."""


class DrainWorker(SimpleWorker):  # type: ignore[misc]  # rq has no types
    """Runs drain jobs in its own process: a drain is long-lived and owns its connections.

    RQ is how workers share the partitions, and no more: while Redis refuses RQ's bookkeeping, or RQ cannot
    read it, the worker drains all partitions by itself. A worker that cannot use Postgres is none: it is not
    on the list until it can.
    """

    max_connection_wait_time = 2.0  # RQ's own waits a minute longer than Redis was away

    def __init__(
        self,
        queues: Any = (QUEUE,),
        name: str | None = None,
        connection: RedisClient | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        """settings: default: those of the environment, whose misspelt variables are logged then."""
        names = [queue.name if isinstance(queue, Queue) else queue for queue in _listed(queues)]
        if options.get("prepare_for_work", True) and names != [QUEUE]:
            # With one queue RQ moves a job atomically; with several a dying worker loses it.
            raise ConfigurationError(f"DrainWorker works on the queue {QUEUE} alone, got {', '.join(names)}")
        if connection is None and queues and isinstance(queues[0], Queue):
            connection = queues[0].connection
        if connection is not None:
            adopt(connection)  # made by `rq worker`
        rq_log.quieten()
        options |= {
            "serializer": "json",
            "job_class": DrainJob,
            "maintenance_interval": BEAT_S,
            "default_worker_ttl": None,
            "worker_ttl": BEAT_S + 15,  # RQ waits for a job for 15 s less than this
            # With both RQ keeps the registration for KEPT_S, while it waits for a job and while it is at one.
            "job_monitoring_interval": KEPT_S - 60,
        }
        super().__init__(names, name=name or _new_name(), connection=connection, **options)
        self._burst = False
        self._given_settings = settings
        self._settings: Settings | None = None
        self._scheduler: DrainScheduler | None = None
        self._supervisor: _Supervisor | None = None
        self._sealing: Sealing | None = None
        self._retention: Retention | None = None
        self._health: health.Health | None = None
        self._aside = False  # Postgres cannot be used from here
        self._drain_timeout_s = 10.0
        self._maintained_at = -inf
        self._failures = 0  # jobs that failed, one after the other
        self._was_ready = False
        self._loop_began = 0.0
        self._without_rq_since: float | None = None
        self._without_rq_logged_at = -inf

    def work(self, *args: Any, burst: bool = False, **kwargs: Any) -> bool:
        """Work until stopped. RQ's own loop gives up on any error; this one drains meanwhile, and returns."""
        self._burst = burst
        kwargs["with_scheduler"] = False  # rq worker-pool asks for one; nothing here is scheduled
        ends_by_itself = burst or kwargs.get("max_jobs") or kwargs.get("max_idle_time")
        worked = False
        pause_s = PAUSES_S[0]
        try:
            while True:
                began = self._loop_began = monotonic()
                failed, why = False, "its own log has the reason"
                try:
                    worked = super().work(*args, burst=burst, **kwargs) or worked
                except StopRequested:  # while it registered anew
                    return worked
                except Exception as error:
                    starts = self._scheduler is None and not isinstance(error, REDIS_ERRORS)
                    if starts or isinstance(error, NameTaken):
                        raise  # it cannot start: a setting, the database's schema, its name
                    failed, why = True, f"{type(error).__name__}: {error}"
                if self.stopping or (ends_by_itself and not failed):
                    return worked
                if monotonic() - began > PAUSES_S[1]:
                    pause_s = PAUSES_S[0]
                self._log_without_rq(why)
                if self._goes_on_without_rq(pause_s) or ends_by_itself:
                    return worked
                pause_s = min(2 * pause_s, PAUSES_S[1])
                self.name = _new_name()  # the old name is taken until its key expires
        finally:
            jobs.use(None)
            if self._supervisor is not None:
                self._supervisor.stop()
            if self._sealing is not None:
                self._sealing.stop()
            if self._retention is not None:
                self._retention.stop()
            if self._health is not None:
                self._health.stop()

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Before the first job: the database is there and migrated, the drain jobs are on the queue."""
        scheduler = self._scheduler or self._prepare()
        assert self._settings is not None
        scheduler.worker = self.name
        self._take_name(scheduler)
        super().bootstrap(*args, **kwargs)
        scheduler.ensure_enqueued()
        if not self._was_ready:
            self._was_ready = True
            log.info(
                "The worker is ready: it drains its share of %d partition(s), "
                "or stands by while others drain all of them",
                scheduler.partitions,
            )

    @property
    def stopping(self) -> bool:
        """Whether a signal asked this worker to stop."""
        return self._shutdown_requested_date is not None

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """RQ would ask the clock, which may go back."""
        return monotonic() - self._maintained_at > BEAT_S

    def run_maintenance_tasks(self) -> None:
        """Not RQ's: they call a job whose holder died a failed one, and end where they cannot read a key."""
        self._maintained_at = monotonic()
        self.last_cleaned_at = None
        if monotonic() - self._loop_began > 2 * BEAT_S:  # it waits for a job, and nothing hinders it
            self._log_with_rq()
        self._register_again()
        self._maintain()
        if self._supervisor is not None and (stalled := self._supervisor.stalled):
            self._drain_directly(stalled, BEAT_S)

    def serialize(self) -> dict[str, Any]:
        """What Redis knows of this worker."""
        return {**super().serialize(), PROCESS_HOST_FIELD: process_host(), RUNS_FIELD: RUNS_SHARES}

    def register_death(self) -> None:
        """RQ would keep what is left of it for another minute."""
        super().register_death()
        self.connection.delete(self.key)

    def teardown(self) -> None:
        """RQ leaves its subscription behind where Redis refuses to register the worker's death."""
        try:
            super().teardown()
        finally:
            self._close_subscription()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one time slice under a lease that a thread renews; then enqueue the job again."""
        self._log_with_rq()
        self._register_again()
        if self._burst:
            job.args = (*job.args, True)
        execution = self.prepare_execution(job)
        with _Lease(self, job, execution):
            succeeded = self.perform_job(job, queue, execution)
        self._failures = 0 if succeeded else self._failures + 1
        if self._failures:  # not as quickly as it can fail
            _pause(min(PAUSES_S[1], PAUSES_S[0] * 2 ** min(self._failures, 10)), self)
        self.set_state("idle")
        if self.stopping:
            worker_registration.unregister(self)  # so that the others see at once that they are fewer
        elif jobs.database_lost.is_set():
            self._stand_aside()
        self._maintain()

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: Any, execution: Execution
    ) -> None:
        """Another worker, for which this one was dead, may have removed the job: nothing is left to do."""
        try:
            super().handle_job_success(job, queue, started_job_registry, execution)
        except InvalidJobOperation:
            log.warning(
                "The worker had lost its lease of drain job %s: another worker has removed it meanwhile",
                job.id,
            )
            with self.connection.pipeline() as pipeline:
                self.cleanup_execution(job, pipeline, execution)
                pipeline.execute()

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Redis keeps the registration for KEPT_S after each of them, so it shows when the last one was."""
        super().heartbeat(KEPT_S, pipeline=pipeline)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """What has expired while the process stood still is written as a whole: RQ writes a part of it, and
        cannot read that."""
        super().maintain_heartbeats(job, execution)
        execution.save(LEASE_S)

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

    def _prepare(self) -> DrainScheduler:
        """Once. Raises ConfigurationError or MigrationError."""
        settings = self._given_settings
        if settings is None:
            warn_of_misspelt()
            settings = Settings.load(role="worker")
        database_url = settings.require_database_url()
        self._drain_timeout_s = settings.drain_timeout_s
        rq_prefix.agree(settings.keyspace)
        database = _wait_for_database(settings, patient=not self._burst)
        identity = database.identity
        self._settings = settings
        jobs.use(settings)
        self._claim(settings, identity)
        scheduler = DrainScheduler(
            self.connection,
            len(settings.keyspace.numbers(settings.partitions)),
            worker=self.name,
            keyspace=settings.keyspace,
            identity=identity,
            read_identity=lambda: jobs.identity_of(database_url),
        )
        with (
            contextlib.suppress(*partitioning.ERRORS),  # the supervisor tries it again
            source.connect(settings.require_redis_url()) as client,
        ):
            _agree(settings, scheduler, client)
        with source.connect(settings.require_redis_url()) as client:
            log.info("%s", connected.sentence(settings, client, self.connection))
        self._take_name(scheduler)  # before anything begins to work under it
        self._scheduler = scheduler
        if not self._burst:
            self._health = health.serve(settings, self._own_problems)
            self._supervisor = _Supervisor(settings, scheduler, self.connection)
            self._supervisor.start()
            if settings.seal_every != "off":
                self._sealing = Sealing(settings)
                self._sealing.start()
            if settings.retain_for_days is not None and database.may_retain:
                self._retention = Retention(settings)
                self._retention.start()
        return scheduler

    def _take_name(self, scheduler: DrainScheduler) -> None:
        """Raises NameTaken where a living worker has it."""
        scheduler.check_types()
        if not scheduler.release_name(self.key):
            raise NameTaken(f"There exists an active worker named {self.name!r} already")

    def _claim(self, settings: Settings, identity: str) -> None:
        """Write beside the streams whose they are, where nothing is written yet. Raises OtherDatabase.

        A Redis that does not answer hinders no start: each read asks again. Nor does one namespace of several
        that is another database's: its partitions are left out.
        """
        keyspace = settings.keyspace
        refused: list[OtherDatabase] = []
        with (
            contextlib.suppress(*REDIS_ERRORS),
            redis_client(settings.require_redis_url(), answer_timeout_s=5, connect_timeout_s=5) as client,
        ):
            for one in keyspace.each:
                try:
                    Bindings(client, identity).claim(map(one.keys, range(settings.partitions)))
                except OtherDatabase as error:
                    refused.append(error)
        if len(refused) == len(keyspace.each):
            raise refused[0]
        for each in refused:
            log.error("The worker leaves partitions out that are another database's: %s", each)
        claim_drain_jobs(self.connection, keyspace, identity)

    def _maintain(self) -> None:
        if self._scheduler is not None and not self._burst:
            self._scheduler.ensure_enqueued()

    def _register_again(self) -> None:
        """Redis may have lost its data since this worker's birth, and RQ's heartbeat says only part of it."""
        with self.connection.pipeline() as pipeline:
            worker_registration.register(self, pipeline)
            pipeline.hset(self.key, mapping=self.serialize())
            pipeline.execute()

    def _stand_aside(self) -> None:
        """Leave the share to the other workers until Postgres can be used from here. Raises StopRequested."""
        assert self._settings is not None
        jobs.database_lost.clear()
        self._aside = True
        worker_registration.unregister(self)
        self._maintain()
        log.error(
            "The worker cannot use Postgres and leaves its share of the partitions to the other workers "
            "until it can"
        )
        logged = ""
        while not self.stopping:
            try:
                migrations.wait_for(self._settings.require_database_url())
                break
            except migrations.MigrationError as error:
                if str(error) != logged:
                    logged = str(error)
                    log.error("The worker cannot use Postgres, and tries again: %s", error)
                _pause(BEAT_S, self)
        self._aside = False
        self._register_again()
        log.warning("The worker can use Postgres again, and takes a share of the partitions")

    def _own_problems(self) -> list[str]:
        """For /readyz."""
        if self.stopping:
            return ["This worker is about to end."]
        return ["This worker cannot use Postgres; its log says why."] if self._aside else []

    def _goes_on_without_rq(self, seconds: float) -> bool:
        """RQ's loop has ended: drain without it for a while, or in a burst until all is drained.

        True: a signal asked to stop.
        """
        self._close_subscription()
        self._state = WorkerStatus.IDLE  # no job is under way: a signal raises StopRequested
        try:
            self._install_signal_handlers()
            _wait_for_redis(self.connection)
            until = monotonic() + seconds
            while True:
                if self._settings is not None:
                    partitions = jobs.known.numbers(self._settings.keyspace, self._settings.partitions)
                    self._drain_directly(partitions, inf if self._burst else min(seconds, DIRECTLY_S))
                if self._burst or monotonic() >= until:
                    break
                _pause(min(until - monotonic(), IDLE_S), self)
        except StopRequested:
            return True
        return self.stopping

    def _log_without_rq(self, why: str) -> None:
        """RQ's loop has ended: log it when it begins, and each minute while it cannot be started again."""
        now = monotonic()
        if self._without_rq_since is None:
            self._without_rq_since = now
        elif now - self._without_rq_logged_at < LOG_AGAIN_S:
            return
        self._without_rq_logged_at = now
        log.error(
            "The worker cannot use RQ (%s): it drains all partitions without it, and tries it again",
            why,
        )

    def _log_with_rq(self) -> None:
        """RQ's loop is under way."""
        if self._without_rq_since is not None:
            log.warning("The worker uses RQ again after %.1f s", monotonic() - self._without_rq_since)
            self._without_rq_since = None

    def _drain_directly(self, partitions: Sequence[int], seconds: float) -> None:
        """The partitions until they are empty, for so long at most. Raises StopRequested after a signal."""
        assert self._settings is not None
        self._state = WorkerStatus.BUSY  # a signal lets what is in hand be finished
        try:
            jobs.drain_directly(self._settings, partitions, seconds)
        except (*REDIS_ERRORS, StoreUnavailable, StoreMisconfigured, RiskError) as error:
            log.error("The worker cannot drain without RQ: %s", error)
        except Exception:
            log.exception("The worker failed while it drained without RQ")
        finally:
            self._state = WorkerStatus.IDLE
        if self._stop_requested:
            raise StopRequested

    def _close_subscription(self) -> None:
        """RQ's thread waits for a minute at its connection; closing that wakes it, and it ends."""
        if self.pubsub_thread:
            self.pubsub_thread.stop()
            # AttributeError: the thread closes it at the same moment, which redis-py does not expect.
            with contextlib.suppress(*REDIS_ERRORS, OSError, AttributeError):
                self.pubsub.close()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        if not pubsub_thread._running.is_set():
            return  # it is being closed
        if isinstance(exc, RedisConnectionError):
            super()._pubsub_exception_handler(exc, pubsub, pubsub_thread)
            return
        log.error("The worker does not receive RQ's commands for a while: %s", exc)
        sleep(BEAT_S)


class _Supervisor(threading.Thread):
    """Keeps the drain jobs enqueued, ends time slices, and logs which partitions are not drained, whatever
    the worker does."""

    def __init__(self, settings: Settings, scheduler: DrainScheduler, rq: RedisClient) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._settings = settings
        self._scheduler = scheduler
        self._rq = rq
        self._over = threading.Event()
        self._logged_at: dict[str, float] = {}
        self._shown: set[str] = set()
        self.stalled: list[int] = []

    def run(self) -> None:
        with source.connect(self._settings.require_redis_url()) as client:
            settings = self._settings
            keyspace = settings.keyspace
            watch = progress.Watch(
                client, lambda: jobs.known.numbers(keyspace, settings.partitions), keyspace
            )
            maintained = looked = -inf
            while not self._over.wait(LOOK_S):
                with self._contained():
                    self._look()
                if monotonic() - maintained >= BEAT_S:
                    maintained = monotonic()
                    with self._contained():
                        self._look_at_partitions(client)
                    with self._contained():
                        self._scheduler.ensure_enqueued()
                if monotonic() - looked < PROGRESS_S:
                    continue
                looked = monotonic()
                with self._contained():
                    self.stalled = [keyspace.number_of(each.keys) for each in watch.report()]
                with self._contained():
                    if self._rq.exists(WORKERS_SUSPENDED):
                        self._log_rarely(
                            f"RQ's workers are suspended (Redis' key {WORKERS_SUSPENDED} is set), so nothing "
                            "is drained; `rq resume` lets them go on"
                        )

    def _look(self) -> None:
        """Whether the time slice is over; and show how long its COMMIT takes, and why it cannot store."""
        waited_s = jobs.uncommitted.seconds()
        partitions = jobs.known.numbers(self._settings.keyspace, self._settings.partitions)
        jobs.time_slice.look(self._scheduler.shares(), partitions, waits=waited_s > LOOK_S)
        key = worker_key(self._scheduler.worker)
        why = jobs.outage.why
        says: Any = {}
        if waited_s >= NAMED_AFTER_S:
            says[COMMIT_WAIT_FIELD] = f"{waited_s:.1f}"
        if why and not jobs.time_slice.is_over():  # who is on no list any more would leave the key behind
            says[CANNOT_STORE_FIELD] = why[:REASON_MAX]
        stays = {CANNOT_STORE_FIELD} if why else set()  # between two time slices
        over = self._shown - says.keys() - stays
        if says:
            self._rq.hset(key, mapping=says)
        if over:
            self._rq.hdel(key, *over)
        self._shown = (self._shown | says.keys()) - over

    def _look_at_partitions(self, client: RedisClient) -> None:
        """See how many partitions there are; where their copies differ or are missing, write them."""
        settings = self._settings
        seen = jobs.known.look(client, settings.keyspace, settings.partitions)
        self._scheduler.partitions = len(seen.numbers)
        if not seen.uniform or not jobs.known.in_postgres:
            _agree(settings, self._scheduler, client)

    def stop(self) -> None:
        self._over.set()

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except AWAY:
            pass  # the worker itself logs it
        except REDIS_ERRORS as error:
            self._log_rarely(
                f"Redis rejected a command with which the worker maintains the drain jobs: {error}"
            )
        except Exception as error:  # noqa: BLE001
            self._log_rarely(f"The worker could not maintain the drain jobs: {type(error).__name__}: {error}")

    def _log_rarely(self, message: str) -> None:
        """Log a message once, and again each minute while it is given."""
        if monotonic() - self._logged_at.get(message, -LOG_AGAIN_S) >= LOG_AGAIN_S:
            self._logged_at = {
                message: monotonic(),
                **{k: v for k, v in self._logged_at.items() if monotonic() - v < LOG_AGAIN_S},
            }
            log.error("%s.", message)


class _Lease:
    """Renews the lease of the job's holder every BEAT_S, from a thread of its own."""

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
        renewed, why = monotonic(), ""
        while not self._over.wait(BEAT_S):
            try:
                self._worker._register_again()
                self._worker.maintain_heartbeats(self._job, self._execution)
            except REDIS_ERRORS as error:
                if not why:
                    log.warning("The worker cannot renew its lease of drain job %s: %s", self._job.id, error)
                why = str(error)
                continue
            late_s = monotonic() - renewed
            if late_s > LEASE_S:
                log.warning(
                    "The worker lost its lease of drain job %s, which it renewed after %.0f s: %s. Another "
                    "worker may have drained the same partitions meanwhile; what both read is stored once",
                    self._job.id,
                    late_s,
                    why or "its process stood still",
                )
            elif why:
                log.warning("The worker renews its lease of drain job %s again", self._job.id)
            renewed, why = monotonic(), ""


class _Database(NamedTuple):
    """What a worker has to know of its database when it starts."""

    identity: str
    may_retain: bool
    """Whether the worker may remove old rows."""


def _wait_for_database(settings: Settings, *, patient: bool) -> _Database:
    """Until it is there, migrated, and has answered; log the reason whenever it changes.

    patient: as long as it takes; else a minute. Raises ConfigurationError, MigrationError and
    DatabaseUnavailable: what waiting would not mend, or did not.
    """
    url = settings.require_database_url()
    logged = ""
    while True:
        try:
            migrations.up(
                url,
                timeout_s=migrations.WAIT_TIMEOUT_S,
                apply=settings.migrate == "auto",
                program=settings.dbmate,
            )
            may_retain = _check_rights(settings)
            if settings.assigns_traders:
                _name_unassigned(url)
            return _Database(_read_identity(url), may_retain)
        except (migrations.DatabaseAway, DatabaseUnavailable) as error:
            if not patient:
                raise
            if str(error) != logged:
                logged = str(error)
                log.warning("The worker waits for Postgres: %s", error)
            sleep(PAUSES_S[0])


def _read_identity(database_url: str) -> str:
    """Of the database, when the worker starts. Raises DatabaseUnavailable and ConfigurationError."""
    try:
        return jobs.read_identity(database_url)
    except StoreUnavailable as error:
        raise DatabaseUnavailable(f"the database: {error}") from error
    except StoreMisconfigured as error:
        raise ConfigurationError(f"the database: {error}") from error


def _check_rights(settings: Settings) -> bool:
    """Name what the worker's role lacks in Postgres. Returns whether it may remove old rows.

    Raises ConfigurationError where it cannot store, and DatabaseUnavailable. What it cannot seal waits.
    """
    lacking = grants.missing(settings.require_database_url())
    if lacking.storing:
        raise ConfigurationError(
            f"the role {lacking.role} lacks rights that a worker needs: {'; '.join(lacking.storing)}. "
            "riskstream grants prints a role for workers that has them all"
        )
    if lacking.sealing and settings.seal_every != "off":
        log.error(
            "The role %s lacks rights that sealing needs, so the worker seals nothing: %s. Or set "
            "RISK_SEAL_EVERY=off here, and let another process seal",
            lacking.role,
            "; ".join(lacking.sealing),
        )
    if not lacking.owns_history and settings.retain_for_days is not None:
        log.warning(
            "The role %s does not own history, so the worker removes nothing, whatever RISK_RETAIN_FOR says: "
            "run riskstream retain as the owner",
            lacking.role,
        )
    return lacking.owns_history


def _name_unassigned(database_url: str) -> None:
    """Log how many traders the next that reports them will have. Raises DatabaseUnavailable."""
    if count := dict(assignment.counts(database_url)).get(None):
        log.warning(
            "%d traders in Postgres belong to no namespace yet, and each will belong to the one that reports "
            "it next. `riskstream traders assign NAMESPACE --unassigned` decides for one",
            count,
        )


def _agree(settings: Settings, scheduler: DrainScheduler, client: RedisClient) -> None:
    """Let Redis and Postgres know the same of the partitions. Raises partitioning.ERRORS."""
    before = jobs.known.seen
    found = partitioning.agree(
        client, settings.require_database_url(), settings.keyspace, settings.partitions
    )
    jobs.known.in_postgres = True
    seen = jobs.known.look(client, settings.keyspace, settings.partitions)
    scheduler.partitions = len(seen.numbers)
    if before is None and found.partitions != settings.partitions:
        log.warning(
            "RISK_PARTITIONS is %d here, and the deployment has %d partitions: the worker uses those; "
            "`riskstream partitions` changes their number",
            settings.partitions,
            found.partitions,
        )


def _new_name() -> str:
    """A name that shows the worker's host and process. Containers may share both, so it ends at random."""
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname())
    return f"{host}-{os.getpid()}-{uuid4().hex[:6]}"


def _leave(after_s: float) -> None:
    """End the process, whatever hangs. A crash at any place is harmless, so this is: the batch in hand is
    stored or it is not, and what is not acknowledged comes again."""
    log.critical("The worker did not end within %g s (RISK_DRAIN_TIMEOUT_S); it exits at once", after_s)
    os._exit(1)


def run(settings: Settings, *, burst: bool = False) -> None:
    """`riskstream worker`: wait for Redis and Postgres, migrate, work until stopped."""
    settings.require_database_url()
    url = settings.require_rq_redis_url()
    settings.require_redis_url()
    with redis_client(url, answer_timeout_s=5, connect_timeout_s=5, retries=10) as connection:
        _wait_for_redis(connection, url)
        worker = DrainWorker([QUEUE], connection=connection, settings=settings)
        try:
            worker.work(burst=burst)
        except OSError:  # the command line would take it for its output's, and say no more than its text
            log.exception("The worker ends, as the operating system refused it something")
            sys.exit(1)
        log.info("The worker has stopped")
    if not burst and not worker.stopping:
        sys.exit(1)


def _pause(seconds: float, worker: DrainWorker) -> None:
    """Not by an Event: the handler that sets it may have interrupted its wait()."""
    until = monotonic() + seconds
    while not worker.stopping and (left := until - monotonic()) > 0:
        sleep(min(left, 0.05))


def _wait_for_redis(connection: RedisClient, url: str = "") -> None:
    """Wait until Redis answers; log the reason at first and whenever it changes."""
    logged = ""

    def log_change(details: Any) -> None:
        nonlocal logged
        if str(details["exception"]) != logged:
            logged = str(details["exception"])
            log.warning("The worker waits for %s: %s", f"Redis {mask(url)}" if url else "RQ's Redis", logged)

    backoff.on_exception(
        backoff.expo, REDIS_ERRORS, factor=0.1, max_value=2, on_backoff=log_change, logger=None
    )(connection.ping)()


def _listed(queues: Any) -> Sequence[Any]:
    return [queues] if isinstance(queues, (str, Queue)) else list(queues)
