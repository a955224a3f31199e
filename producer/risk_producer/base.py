"""ProducerBase: how RiskProducer and AsyncRiskProducer are made, and what links them to their process."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from risk_producer import process
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.engine import Engine
from risk_producer.errors import InvalidSnapshot
from risk_producer.session.buffer import OnFull
from risk_producer.session.health import Health
from risk_producer.session.options import STALL_S, Options
from risk_producer.session.session import ProducerSession
from risk_producer.settings import Settings, check_arguments, warn_of_misspelt
from risk_producer.spool.spool import Fsync, Spool
from risk_producer.transport.redis import Transport

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class ProducerBase:
    """A thin facade: it may be dropped at any time, and the flusher sends what is left."""

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        client: Any = None,
        namespace: str = "",
        partitions: int = 1,
        stream_maxlen: int = 1_000_000,
        buffer_size: int = 1_024,
        save_timeout_s: float = 5.0,
        on_full: OnFull = "block",
        spool_dir: Path | str | None = None,
        spool_fsync: Fsync = "never",
        spool_max_bytes: int = 64 * 1024 * 1024,
        replicas: int = 0,
        database_url: str | None = None,
        persistent: bool = True,
        push_through: bool | None = None,
        stall_s: float = STALL_S,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Nothing is connected before it is needed.

        redis_url        Redis with the stream
        client           instead of redis_url: a redis.Redis of your own, with finite timeouts; in asyncio too
        namespace        what all keys in Redis begin with; the same for all producers and workers
        partitions       streams that traders are spread over, where Redis does not say yet how many there are
        stream_maxlen    entries that the streams of all partitions may hold, each an equal part
        buffer_size      snapshots that memory may hold
        save_timeout_s   seconds that save() and push() wait for room
        on_full          what save() does when the buffer is full: "block" waits for room; "refuse" answers
                         False at once; "conflate" merges older snapshots of a trader into its newest one,
                         but never one with another pause or reason than the one before it, and blocks where
                         nothing can be merged
        spool_dir        folder of this producer alone, where what is accepted survives the process
        spool_fsync      "never": survives a crash of the process; "interval": of the machine too, but for
                         the last second or two; "always": each save() waits for the disk
        spool_max_bytes  what the spool may take; beyond it counts as a full buffer
        replicas         replicas of Redis that have to confirm a snapshot before it is accepted: it then
                         survives a failover to one of them; with fewer it waits, as if Redis were away
        database_url     where load() asks too; needs psycopg
        persistent       False: keep state in memory only and send nothing
        push_through     save() waits until Redis has the snapshot, for 0.1 s at the most and not while Redis
                         is away; default: only in a daemonic process of multiprocessing, as those of a Pool
                         are, which its parent ends by SIGTERM
        stall_s          seconds after which the log and health() say why the oldest snapshot still waits
        registry         where the metrics are; default: Prometheus' own
        """
        if persistent and (redis_url is None) == (client is None):
            raise TypeError(f"{type(self).__name__} needs one of redis_url and client")
        check_arguments(
            namespace=namespace,
            partitions=partitions,
            stream_maxlen=stream_maxlen,
            buffer_size=buffer_size,
            save_timeout_s=save_timeout_s,
            on_full=on_full,
            spool_dir=spool_dir,
            spool_fsync=spool_fsync,
            spool_max_bytes=spool_max_bytes,
            replicas=replicas,
            database_url=database_url,
        )
        transport = Transport(redis_url, client, replicas) if persistent else Transport(None)
        spool: Spool | None = None
        if spool_dir is not None and persistent:
            spool = Spool(Path(spool_dir), fsync=spool_fsync, max_bytes=spool_max_bytes)
        options = Options(
            namespace=namespace,
            partitions=partitions,
            stream_maxlen=stream_maxlen,
            buffer_size=buffer_size,
            save_timeout_s=save_timeout_s,
            on_full=on_full,
            persistent=persistent,
            stall_s=stall_s,
        )
        from risk_producer.metrics import collector_of  # not before: prometheus_client is slow to import

        session = ProducerSession(options, spool, sync_each=spool is not None and spool_fsync == "always")
        self._database_url = database_url
        self._collector = collector_of(registry)
        self._run(Engine(session, transport, push_through=push_through))
        if session.depth:  # an earlier process left it in the spool
            session.hurry()  # not otherwise: gevent may not have replaced what locks are yet

    def _run(self, engine: Engine) -> None:
        """Use this engine from now on: at first, and in the child of a fork."""
        flusher = engine.flusher
        flusher.on_end = partial(_ended, id(flusher), self._collector.retire)
        self._engine = engine
        self._finalizer = weakref.finalize(self, process.dropped, flusher)
        self._finalizer.atexit = False  # the end of the process has its own way
        self._collector.watch(engine.session)
        process.register(self, flusher)

    def _before_child(self) -> None:
        self._finalizer.detach()
        self._collector.forget()

    def _begin_child(self) -> None:
        self._run(self._engine.child())

    def _determine_role(self) -> None:
        self._engine.determine_role()

    @classmethod
    def from_settings(cls, settings: Settings, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with these settings. ConfigurationError where REDIS_URL is missing and needed."""
        return cls(
            settings.require_redis_url() if settings.persistent else None,
            namespace=settings.require_namespace(),
            partitions=settings.partitions,
            stream_maxlen=settings.stream_maxlen,
            buffer_size=settings.buffer_size,
            save_timeout_s=settings.save_timeout_s,
            on_full=settings.on_full,
            spool_dir=settings.spool_dir,
            spool_fsync=settings.spool_fsync,
            spool_max_bytes=settings.spool_max_bytes,
            replicas=settings.replicas,
            database_url=settings.database_url,
            persistent=settings.persistent,
            registry=registry,
        )

    @classmethod
    def from_env(cls, *, registry: CollectorRegistry | None = None) -> Self:
        """A producer with the settings of the environment. Raises ConfigurationError.

        A variable that is no setting, and is spelt almost like one, is named in the log.
        """
        warn_of_misspelt()
        return cls.from_settings(Settings.load(role="trader"), registry=registry)

    def health(self) -> Health:
        """How the producer is just now. Makes no call to Redis or Postgres, and never raises."""
        return self._engine.session.health()

    def _reject_invalid(self, trader_id: str, error: InvalidSnapshot) -> None:
        """A bound handle's save() answers False: a field breaks a rule, which is logged already."""
        self._engine.session.reject_invalid()


def check(snapshot: object) -> None:
    """Raise InvalidSnapshot for what is no RiskSnapshot."""
    if not isinstance(snapshot, RiskSnapshot):
        raise InvalidSnapshot(f"a RiskSnapshot is expected, got {snapshot!r}")


def _ended(flusher_id: int, retire: Any) -> None:
    process.forget(flusher_id)
    retire()
