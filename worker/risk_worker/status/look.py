"""Asks Redis, RQ's Redis and Postgres how things are, each in a thread of its own and within a bound.

Whichever of them says nothing, the answers of the others are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Final

from risk_producer.contract.identity import difference
from risk_producer.settings import Settings
from risk_worker.status.model import PartitionStatus, Status, WorkerStatus
from risk_worker.status.of_postgres import Postgres
from risk_worker.status.of_redis import Queue, Streams
from risk_worker.status.side import Side

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

BOUND_S: Final = 2.5
"""A look takes no longer than about this, whatever the servers do."""


def look(settings: Settings) -> Status:
    """How everything is now. Raises ConfigurationError where a setting is missing."""
    with Observer(settings) as observer:
        return observer.look()


class Observer:
    """Looks again and again, with connections that are kept. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError where a setting is missing. Connects to nothing yet."""
        self._settings = settings
        url, rq_url = settings.require_redis_url(), settings.require_rq_redis_url()
        self._redis = Side(Streams(url, settings))
        self._queue = Side(Queue(rq_url, settings.keyspace, separate=rq_url != url))
        self._postgres = Side(Postgres(settings.require_database_url()))

    def look(self) -> Status:
        """How everything is now."""
        began = monotonic()
        for side in (self._redis, self._queue, self._postgres):
            side.begin()
        until = began + BOUND_S
        streams = self._redis.answer(until)
        queue = self._queue.answer(until)
        stored = self._postgres.answer(until)
        status = Status(
            at=datetime.now(UTC),
            namespace=self._settings.keyspace.namespace,
            redis=streams.redis,
            queue=queue.queue,
            postgres=stored.postgres,
            workers=queue.workers,
            partitions=_drained_by(streams.partitions, queue.workers),
            partitions_agreed=streams.agreed,
            partitions_here=self._settings.partitions,
            traders=replace(stored.traders, in_redis=streams.traders),
            dead_letters=stored.dead_letters,
            totals=streams.totals,
            other_database=_other_database(streams.owners, stored.identity),
            behind=streams.behind,
            restored=streams.restored,
        )
        return replace(status, took_s=monotonic() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in (self._redis, self._queue, self._postgres):
            side.close()


def _drained_by(
    partitions: tuple[PartitionStatus, ...] | None, workers: tuple[WorkerStatus, ...] | None
) -> tuple[PartitionStatus, ...] | None:
    """The partitions, each with the worker whose share it is in."""
    if partitions is None or workers is None:
        return partitions
    return tuple(
        replace(each, worker=next((of for of in workers if of.drains(place)), None))
        for place, each in enumerate(partitions)
    )


def _other_database(owners: Mapping[str, bytes] | None, identity: str | None) -> str:
    """The sentence where streams are another database's; "": they are this one's, or that is not known."""
    if not owners or identity is None:
        return ""
    differ = (difference(key, held, identity) for key, held in owners.items())
    return next((text for text in differ if text), "")
