"""The RQ job: one drain a partition, under a fixed id."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError
from rq.job import Job

from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.database.store import PostgresStore
from risk_worker.drain.errors import SourceUnavailable
from risk_worker.drain.loop import drain
from risk_worker.drain.retry import OutageLog, RetryPolicy
from risk_worker.recovery.floors import Floors
from risk_worker.stream import source
from risk_worker.stream.partitions import Watch
from risk_worker.stream.workers import QUEUE

log = logging.getLogger("riskstream.jobs")

DRAIN: Final = "risk_worker.runtime.jobs.drain_partition"
TIME_SLICE_S: Final = 20.0
SHORT_TIME_SLICE_S: Final = 1.0  # where more partitions wait for a worker than there are workers

stop: Final = threading.Event()
"""Set once, by the worker's signal handler: finish the batch in hand."""

_unserved: Final = Watch()
_outages: Final[dict[int, OutageLog]] = {}  # partition -> its outage, which may last longer than a time slice

Over = Callable[[source.StreamSource], bool]


def drain_partition(partition: int, until_empty: bool = False) -> int:
    """The job: drain a partition for a time slice, or until it is empty.

    Returns how many entries were settled.
    """
    settings = Settings.load()
    if until_empty:
        return _drain(settings, partition, _is_done)
    with redis_client(
        settings.require_rq_redis_url(), answer_timeout_s=5, connect_timeout_s=5, retries=10
    ) as rq:
        time_slice_is_over = _time_slice_is_over(rq)
        return _drain(settings, partition, lambda _: time_slice_is_over())


def drain_directly(settings: Settings, partition: int, seconds: float) -> int:
    """Drain without RQ, while something is wrong with its keys: until the partition is empty, or for so long.

    Another worker may drain it at the same time. Returns how many entries were settled.
    """
    until = monotonic() + seconds
    return _drain(settings, partition, lambda stream: monotonic() >= until or _is_done(stream))


def _drain(settings: Settings, partition: int, over: Over) -> int:
    client = source.connect(settings.require_redis_url())
    policy = RetryPolicy(
        retries=settings.max_retries,
        base_s=settings.backoff_base_ms / 1000,
        cap_s=settings.backoff_cap_ms / 1000,
    )
    floors = Floors.from_settings(settings, client, partition)
    outage = _outages.setdefault(partition, OutageLog(policy))
    with client, floors, PostgresStore(settings.require_database_url()) as store:
        floors.look()
        stream = source.StreamSource.from_settings(settings, client, partition, floors.look)
        with contextlib.suppress(SourceUnavailable, *REDIS_ERRORS):  # the next time slice tries it again
            stream.forget()
            _unserved.look(client, settings.partitions)
        settled = drain(stream, store, stop=stop, over=lambda: over(stream), policy=policy, outage=outage)
    if settled:
        log.info("Partition %d: %d entries settled in this time slice", partition, settled)
    return settled


def _is_done(stream: source.StreamSource) -> bool:
    """Whether there is nothing more to do now: the stream is empty, or no stream at all."""
    try:
        return stream.length() == 0
    except ResponseError as error:
        return str(error).startswith("WRONGTYPE")
    except REDIS_ERRORS:
        return False


def _time_slice_is_over(rq: RedisClient) -> Callable[[], bool]:
    """After TIME_SLICE_S; after SHORT_TIME_SLICE_S when another partition waits for a worker.

    Not while RQ's Redis is away, which RQ needs at the end of a time slice.
    """
    began = monotonic()
    looked = began
    is_over = False

    def over() -> bool:
        nonlocal looked, is_over
        now = monotonic()
        if is_over or now - looked < min(SHORT_TIME_SLICE_S, TIME_SLICE_S):
            return is_over
        looked = now
        try:
            others_wait = bool(rq.llen(f"rq:queue:{QUEUE}"))
        except ResponseError:
            others_wait = False
        except REDIS_ERRORS:
            return False
        is_over = others_wait or now - began >= TIME_SLICE_S
        return is_over

    return over


class DrainJob(Job):  # type: ignore[misc]  # rq has no types
    """Runs what is on the allowlist and nothing else, whatever is written in Redis."""

    ALLOWED: Final = {DRAIN: drain_partition}

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


def job_id_of(partition: int) -> str:
    """The fixed id of a partition's drain job."""
    return f"drain-{partition}"
