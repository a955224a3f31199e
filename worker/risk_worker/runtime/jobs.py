"""The RQ job: the drain of one share of the partitions, under a fixed id.

The partitions of all namespaces that a worker serves are shared, each by the number of its stream.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from rq.job import Job

from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS
from risk_worker.database.commit_watch import CommitWatch
from risk_worker.database.store import PostgresStore
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.loop import drain
from risk_worker.drain.retry import OutageLog, RetryPolicy
from risk_worker.drain.uncommitted import Uncommitted
from risk_worker.recovery.floors import FloorsOfShare
from risk_worker.runtime.time_slice import TimeSlice
from risk_worker.stream import source
from risk_worker.stream.outages import PartitionOutages
from risk_worker.stream.partitions import Known

log = logging.getLogger("riskstream.jobs")

DRAIN: Final = "risk_worker.runtime.jobs.drain_share"
DRAIN_PARTITION: Final = "risk_worker.runtime.jobs.drain_partition"
"""The job of versions before the shares: one partition."""

# Of the drain that is under way in this process, or of the time slices before it.
stop: Final = threading.Event()
"""Set once, by the worker's signal handler: finish what is in hand."""
time_slice: Final = TimeSlice()
uncommitted: Final = Uncommitted()
outage: Final = OutageLog()
database_lost: Final = threading.Event()
"""Set when a time slice ended because Postgres cannot be used from here."""

known: Final = Known()
"""The partitions, as this process last saw them."""
identities: Final[dict[str, str]] = {}
"""URL of a database -> its identity, as this process has last read it."""
_partition_outages: Final = PartitionOutages()

Over = Callable[[source.StreamSource], bool]


_settings: Settings | None = None


def use(settings: Settings | None) -> None:
    """The settings of the worker of this process, for its jobs; None: each reads them from the environment.

    A worker reads them once: a file with a secret may be replaced, or gone, before the next time slice.
    """
    global _settings
    _settings = settings


def partitions_of(share: int, shares: int, partitions: Sequence[int]) -> Sequence[int]:
    """Those of a share: of all the one at place share, at share + shares, share + 2 * shares, ..."""
    return partitions[share::shares]


def drain_share(share: int, shares: int, until_empty: bool = False) -> int:
    """The job: drain one of so many shares of the partitions for a time slice, or until it is empty.

    Returns how many entries were stored.
    """
    settings = _settings or Settings.load()
    everything = _partitions(settings)
    partitions = partitions_of(share, shares, everything)
    if until_empty:
        return _drain(settings, partitions, source.StreamSource.is_empty)
    time_slice.begin(shares, everything)
    return _drain(settings, partitions, lambda _: time_slice.is_over(), on_lost=_lose_database)


def drain_partition(partition: int, until_empty: bool = False) -> int:
    """The job of versions before the shares, while some of them run beside this one."""
    settings = _settings or Settings.load()
    return drain_share(partition, len(known.numbers(settings.keyspace, settings.partitions)), until_empty)


def drain_directly(settings: Settings, partitions: Sequence[int], seconds: float) -> int:
    """Drain without RQ, while something is wrong with its keys: until all is stored, or for so long.

    Longer, where something waits for its COMMIT and it is not known yet whether that is an outage. Another
    worker may drain the same at the same time. Returns how many entries were stored.
    """
    until = monotonic() + seconds

    def over(stream: source.StreamSource) -> bool:
        waits = uncommitted.seconds() > 0 and not outage.why
        return stream.is_empty() or (monotonic() >= until and not waits)

    return _drain(settings, partitions, over)


def _partitions(settings: Settings) -> Sequence[int]:
    """Which there are now; as they were last seen, where Redis does not answer."""
    with contextlib.suppress(*REDIS_ERRORS), source.connect(settings.require_redis_url()) as client:
        known.look(client, settings.keyspace, settings.partitions)
    return known.numbers(settings.keyspace, settings.partitions)


def read_identity(database_url: str) -> str:
    """Ask the database for its identity. Raises StoreUnavailable or StoreMisconfigured."""
    with PostgresStore(database_url) as asked:
        identities[database_url] = asked.identity()
    return identities[database_url]


def identity_of(database_url: str) -> str:
    """Read again, as rebind may have changed it; as last read where the database does not answer."""
    try:
        return read_identity(database_url)
    except (StoreUnavailable, StoreMisconfigured):
        if database_url not in identities:
            raise
        return identities[database_url]


def _lose_database() -> None:
    database_lost.set()
    time_slice.end()


def _drain(
    settings: Settings, partitions: Sequence[int], over: Over, *, on_lost: Callable[[], None] | None = None
) -> int:
    if not partitions:
        return 0
    client = source.connect(settings.require_redis_url())
    database_url = settings.require_database_url()
    identity = identity_of(database_url)
    _partition_outages.keyspace = settings.keyspace
    policy = RetryPolicy(
        retries=settings.max_retries,
        base_s=settings.backoff_base_ms / 1000,
        cap_s=settings.backoff_cap_ms / 1000,
    )
    with (
        client,
        FloorsOfShare(settings, client, partitions, _partition_outages, identity, known) as floors,
        PostgresStores(database_url, identity, assigns_traders=settings.assigns_traders) as store,
        CommitWatch(store, database_url, uncommitted, on_lost=on_lost),
    ):
        floors.look()
        streams = source.StreamSource.from_settings(
            settings, client, partitions, look=floors.look, outages=_partition_outages, identity=identity
        )
        with contextlib.suppress(SourceUnavailable, *REDIS_ERRORS):  # the next time slice tries it again
            streams.forget()
        stored = drain(
            streams,
            store,
            stop=stop,
            over=lambda: over(streams),
            policy=policy,
            outage=outage,
            uncommitted=uncommitted,
        )
    if stored:
        log.debug("%d entries of %d partition(s) stored in this time slice", stored, len(partitions))
    return stored


class DrainJob(Job):  # type: ignore[misc]  # rq has no types
    """Runs what is on the allowlist and nothing else, whatever is written in Redis."""

    ALLOWED: Final[dict[str, Callable[..., int]]] = {DRAIN: drain_share, DRAIN_PARTITION: drain_partition}

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


def job_id_of(share: int) -> str:
    """The fixed id of a share's drain job."""
    return f"drain-{share}"
