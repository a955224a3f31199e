"""Asks Redis, RQ's Redis and Postgres how things are, each in a thread of its own and within a bound.

Whichever of them says nothing, the answers of the others are shown.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from socket import SHUT_RDWR, socket
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, Generic, LiteralString, TypeVar

import psycopg

from risk_producer.contract import counters as names
from risk_producer.contract.identity import difference
from risk_producer.contract.keys import Keyspace
from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import Question, ask_each
from risk_worker.database import connection as database
from risk_worker.database import extension, migrations, privileges
from risk_worker.database.deployment import identity_of
from risk_worker.database.sqlstate import Disposition, classify_error
from risk_worker.status.model import (
    DeadLettersStatus,
    PartitionStatus,
    PostgresStatus,
    QueueStatus,
    RedisStatus,
    RestoredStatus,
    Status,
    TradersStatus,
    TraderStatus,
    WorkerStatus,
)
from risk_worker.stream import partitions as in_use
from risk_worker.stream import progress, server
from risk_worker.stream.counters import numbers
from risk_worker.stream.workers import RegisteredWorker, registered_workers, shares_at_work

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

BOUND_S: Final = 2.5
"""A look takes no longer than about this, whatever the servers do."""
ANSWER_S: Final = 0.8
"""How long one answer of Redis is waited for."""
SAMPLE_S: Final = 0.4
"""What a rate is measured over where nothing was counted before."""
SILENT_S: Final = 300.0
"""A trader without a snapshot for so long is silent, as `riskstream stale` has it."""
SHOWN: Final = 10
"""Traders of a kind that are named."""
DEAD_COUNTED: Final = 10_000
"""Dead letters are counted up to this number."""

_PURPOSE: Final = database.Purpose(
    "riskstream-status", {"statement_timeout": "1500ms", "lock_timeout": "500ms", "jit": "off"}
)
_SQL: Final = statements(__package__, "status.sql")
_TOTALS: Final = (
    names.ACCEPTED,
    names.STORED,
    names.DEAD,
    names.CONFLATED,
    names.DUPLICATES,
    names.FOREIGN,
)

T = TypeVar("T")


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
        self._redis = _Side(_Streams(url, settings))
        self._queue = _Side(_Queue(rq_url, settings.keyspace, separate=rq_url != url))
        self._postgres = _Side(_Postgres(settings.require_database_url()))

    def look(self) -> Status:
        """How everything is now."""
        began = monotonic()
        sides: Sequence[_Side[Any]] = (self._redis, self._queue, self._postgres)
        for side in sides:
            side.begin()
        until = began + BOUND_S
        streams, queue, stored = (side.answer(until) for side in sides)
        status = Status(
            at=datetime.now(UTC),
            namespace=self._settings.namespace,
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


class _Asked(Generic[T]):
    """One server, and how it is asked."""

    def ask(self) -> T:
        """The answer, errors of the server included. Called by one thread at a time."""
        raise NotImplementedError

    def without_answer(self, why: str) -> T:
        """The answer of one that says nothing."""
        raise NotImplementedError

    def cut(self) -> None:
        """From another thread: end what is waited for, as far as that can be done."""

    def close(self) -> None:
        """Give the connections back."""


class _Side(Generic[T]):
    """Asks in a thread, which may hang: then it is not asked again before that has ended."""

    def __init__(self, asked: _Asked[T]) -> None:
        self._asked = asked
        self._thread: threading.Thread | None = None
        self._answers: list[T] = []

    def begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._answers = []
            self._thread = threading.Thread(target=self._run, args=(self._answers,), daemon=True)
            self._thread.start()

    def answer(self, until: float) -> T:
        """until: a moment, monotonic."""
        assert self._thread is not None
        self._thread.join(max(0.0, until - monotonic()))
        if self._answers:
            return self._answers[0]
        self._asked.cut()
        return self._asked.without_answer(f"it did not answer within {BOUND_S:g} s")

    def close(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._asked.close()

    def _run(self, answers: list[T]) -> None:
        try:
            answers.append(self._asked.ask())
        except Exception as error:  # noqa: BLE001  # what is wrong on one side is no reason to show no other
            answers.append(self._asked.without_answer(f"{type(error).__name__}: {error}"))


@dataclass(frozen=True, slots=True)
class _StreamsAnswer:
    redis: RedisStatus
    partitions: tuple[PartitionStatus, ...] | None = None
    agreed: int | None = None
    traders: int | None = None
    totals: dict[str, int] | None = None
    owners: Mapping[str, bytes] | None = None
    """Key -> the identity of the database that stands there."""
    behind: int = 0
    restored: RestoredStatus | None = None


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the counters of a partition say, and when they were read."""

    at: float
    of: Mapping[int, Mapping[str, float]]


class _Streams(_Asked[_StreamsAnswer]):
    """The Redis with the streams."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = mask(url)
        self._keyspace = settings.keyspace
        self._wish = settings.partitions
        self._maxlen = settings.stream_maxlen
        self._client = redis_client(url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S)
        self._before: _Counted | None = None

    def close(self) -> None:
        self._client.close()

    def without_answer(self, why: str) -> _StreamsAnswer:
        return _StreamsAnswer(RedisStatus(self._url, f"Redis {self._url} cannot be used: {why}"))

    def ask(self) -> _StreamsAnswer:
        try:
            return self._answer()
        except REDIS_ERRORS as error:
            address = self._url.rpartition("@")[2].rpartition("://")[2].partition("/")[0]
            return _StreamsAnswer(RedisStatus(self._url, server.why_refused(error, address)))

    def _answer(self) -> _StreamsAnswer:
        client, keyspace = self._client, self._keyspace
        seen = in_use.look(client, keyspace, self._wish)
        keys = [keyspace.keys(partition) for partition in range(seen.width)]
        servers = server.look(client, keys)
        present = [each.partition for each in keys if each.partition not in seen.away]
        progressed = {each.partition: each for each in progress.read(client, present, keyspace)}
        questions: list[Question] = []
        for partition in present:
            of = keyspace.keys(partition)
            for words in (("HLEN", of.latest), ("HLEN", of.behind), ("GET", of.database), ("TIME",)):
                questions.append((of.snapshots, words))
        answers = ask_each(client, questions)
        before = self._before
        if before is None or monotonic() - before.at < SAMPLE_S / 2:
            before = self._count(present)
            sleep(SAMPLE_S)
        counted = self._before = self._count(present)
        seconds = max(0.001, counted.at - before.at)
        clocks = [each for each in answers[3::4] if not isinstance(each, Exception)]
        now_ms = 1000 * clocks[0][0] + clocks[0][1] / 1000 if clocks else 0.0
        divided_by = self._wish if seen.agreed is None else seen.agreed.partitions
        cap = -(-self._maxlen // divided_by)
        return _StreamsAnswer(
            RedisStatus(self._url, servers=tuple(servers)),
            tuple(
                _partition(
                    each.partition,
                    progressed.get(each.partition),
                    counted.of.get(each.partition, {}),
                    _rate(before.of.get(each.partition), counted.of.get(each.partition), seconds),
                    cap,
                    now_ms,
                )
                for each in keys
            ),
            None if seen.agreed is None else seen.agreed.partitions,
            sum(each for each in answers[0::4] if isinstance(each, int)),
            {name: int(sum(of.get(name, 0) for of in counted.of.values())) for name in _TOTALS},
            {
                keyspace.keys(partition).database: held
                for partition, held in zip(present, answers[2::4], strict=True)
                if isinstance(held, bytes)
            },
            sum(each for each in answers[1::4] if isinstance(each, int)),
            _restored(counted.of, now_ms),
        )

    def _count(self, partitions: Sequence[int]) -> _Counted:
        keys = [self._keyspace.keys(partition) for partition in partitions]
        answers = ask_each(self._client, [(of.snapshots, ("HGETALL", of.counters)) for of in keys])
        return _Counted(
            monotonic(),
            {
                of.partition: numbers(answer, of.counters, [])
                for of, answer in zip(keys, answers, strict=True)
            },
        )


def _partition(
    partition: int,
    seen: progress.PartitionProgress | None,
    counted: Mapping[str, float],
    rows_per_s: float | None,
    cap: int,
    now_ms: float,
) -> PartitionStatus:
    if seen is None or seen.error:
        error = "its node of the Redis Cluster does not answer" if seen is None else str(seen)
        return PartitionStatus(partition, cap=cap, stalled_s=None, error=error)
    committed_ms = counted.get(names.ACKNOWLEDGED_MS)
    return PartitionStatus(
        partition,
        in_flight=seen.length,
        cap=cap,
        oldest_s=seen.oldest_age_s,
        last_commit_s=None if committed_ms is None else max(0.0, (now_ms - committed_ms) / 1000),
        rows_per_s=rows_per_s,
        stalled_s=seen.stalled_s,
    )


def _rate(
    before: Mapping[str, float] | None, after: Mapping[str, float] | None, seconds: float
) -> float | None:
    if before is None or after is None:
        return None
    done = sum(after.get(name, 0) - before.get(name, 0) for name in (names.STORED, names.DEAD))
    return max(0.0, done / seconds)


def _restored(counted: Mapping[int, Mapping[str, float]], now_ms: float) -> RestoredStatus | None:
    found = [of for of in counted.values() if of.get(names.RESTORED_MS)]
    if not found:
        return None
    latest_ms = max(of[names.RESTORED_MS] for of in found)
    traders = int(sum(of.get(names.RESTORED, 0) for of in found))
    return RestoredStatus(traders, max(0.0, (now_ms - latest_ms) / 1000))


@dataclass(frozen=True, slots=True)
class _QueueAnswer:
    queue: QueueStatus
    workers: tuple[WorkerStatus, ...] | None = None


class _Queue(_Asked[_QueueAnswer]):
    """RQ's Redis."""

    def __init__(self, url: str, keyspace: Keyspace, *, separate: bool) -> None:
        self._url = mask(url)
        self._keyspace = keyspace
        self._separate = separate
        self._client: RedisClient = redis_client(
            url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S, name="RQ_REDIS_URL"
        )

    def close(self) -> None:
        self._client.close()

    def without_answer(self, why: str) -> _QueueAnswer:
        return _QueueAnswer(QueueStatus(self._url, self._separate, why))

    def ask(self) -> _QueueAnswer:
        try:
            workers = registered_workers(self._client, self._keyspace)
            shares = shares_at_work(self._client, workers, self._keyspace)
            suspended = bool(self._client.exists(f"{self._keyspace.rq_prefix}:suspended"))
        except REDIS_ERRORS as error:
            return self.without_answer(str(error))
        found = sorted((_worker(each, shares.get(each.key)) for each in workers), key=_order)
        return _QueueAnswer(QueueStatus(self._url, self._separate, suspended=suspended), tuple(found))


def _worker(found: RegisteredWorker, share: tuple[int, int] | None) -> WorkerStatus:
    return WorkerStatus(
        name=found.key.rpartition(b":")[2].decode(errors="backslashreplace"),
        host=found.host,
        pid=found.pid,
        since=found.born,
        state="alive" if found.is_alive else "gone" if found.is_gone else "silent",
        heard_s=found.heard_s if found.heard_s < float("inf") else None,
        share=None if share is None else share[0],
        shares=None if share is None else share[1],
        commit_wait_s=found.commit_wait_s,
    )


def _order(worker: WorkerStatus) -> tuple[bool, int, str, int]:
    return worker.state != "alive", 1_000 if worker.share is None else worker.share, worker.host, worker.pid


@dataclass(frozen=True, slots=True)
class _PostgresAnswer:
    postgres: PostgresStatus
    traders: TradersStatus = TradersStatus()  # noqa: RUF009  # it cannot be changed
    dead_letters: DeadLettersStatus | None = None
    identity: str | None = None


class _Postgres(_Asked[_PostgresAnswer]):
    """The database. Each part is asked by itself: what is wrong with one hides no other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown = mask(url)
        self._connection: database.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def cut(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        with contextlib.suppress(OSError, psycopg.Error), socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(SHUT_RDWR)

    def without_answer(self, why: str) -> _PostgresAnswer:
        return _PostgresAnswer(PostgresStatus(self._shown, why))

    def ask(self) -> _PostgresAnswer:
        try:
            connection = self._connected()
            return self._answer(connection)
        except psycopg.Error as error:
            found = classify_error(error)
            refused = found.disposition is Disposition.CONFIGURATION
            return _PostgresAnswer(PostgresStatus(self._shown, str(found), refused))
        except ConfigurationError as error:
            return _PostgresAnswer(PostgresStatus(self._shown, str(error), refused=True))

    def _connected(self) -> database.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = database.connect(self._url, _PURPOSE)
        return self._connection

    def _answer(self, connection: database.Connection) -> _PostgresAnswer:
        [(version, standby, read_only)] = _rows(connection, "server")
        kind = extension.look(connection)
        found = privileges.look(connection)
        applied = migrations.compare(connection)
        postgres = PostgresStatus(
            self._shown,
            version=f"{version // 10_000}.{version % 10_000}",
            timescale=_timescale(kind),
            read_only=_read_only(standby=standby, by_default=read_only),
            applied=applied.number,
            pending=applied.pending,
            unknown=applied.unknown,
            missing_tables=found.missing_tables,
            missing_grants=found.missing_grants,
        )
        identity = None
        with _tolerant(ConfigurationError):
            identity = identity_of(connection)
        return _PostgresAnswer(postgres, _traders(connection), _dead_letters(connection), identity)


def _rows(connection: psycopg.Connection, name: str, **values: Any) -> list[Any]:
    return connection.execute(_SQL[name], values).fetchall()


@contextlib.contextmanager
def _tolerant(*more: type[Exception]) -> Iterator[None]:
    """What cannot be asked stays unknown: a table is missing, a right, or it takes too long."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        pass
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedColumn):
        pass
    except more:
        pass


def _traders(connection: psycopg.Connection) -> TradersStatus:
    with _tolerant():
        [(stored, paused, silent)] = _rows(connection, "traders", silent_s=SILENT_S)
        return TradersStatus(
            stored=stored,
            paused=paused,
            silent=silent,
            some_paused=_some(connection, "paused") if paused else (),
            some_silent=_some(connection, "silent", silent_s=SILENT_S) if silent else (),
        )
    return TradersStatus()


def _some(connection: psycopg.Connection, name: LiteralString, **values: Any) -> tuple[TraderStatus, ...]:
    return tuple(TraderStatus(*row) for row in _rows(connection, name, most=SHOWN, **values))


def _dead_letters(connection: psycopg.Connection) -> DeadLettersStatus | None:
    with _tolerant():
        [(count,)] = _rows(connection, "dead_letters", most=DEAD_COUNTED + 1)
        if not count:
            return DeadLettersStatus(0)
        newest = _rows(connection, "newest_dead_letter", most=DEAD_COUNTED)
        newest_s, reason = newest[0] if newest else (None, "")
        return DeadLettersStatus(min(count, DEAD_COUNTED), count > DEAD_COUNTED, newest_s, reason)
    return None


def _timescale(found: extension.Extension) -> str:
    """For a person."""
    if found.version is None:
        return "plain tables" + (", TimescaleDB is there and not used" if found.loaded else "")
    kind = "Apache" if found.apache else "Community"
    return (
        f"TimescaleDB {found.version} {kind}, history is a {'hyper' if found.hypertable else 'plain '}table"
    )


def _read_only(*, standby: bool, by_default: bool) -> str:
    if standby:
        return (
            "Postgres is a standby, which nothing can be written to. Name the primary in POSTGRES_URL, or "
            "all hosts: h1,h2"
        )
    if by_default:
        return (
            "Postgres takes no writes: default_transaction_read_only is on. Turn it off, for the server, "
            "the database or the role; what traders send waits in Redis meanwhile"
        )
    return ""


def _drained_by(
    partitions: tuple[PartitionStatus, ...] | None, workers: tuple[WorkerStatus, ...] | None
) -> tuple[PartitionStatus, ...] | None:
    """The partitions, each with the worker whose share it is in."""
    if partitions is None or workers is None:
        return partitions
    return tuple(
        replace(each, worker=next((of for of in workers if of.drains(each.partition)), None))
        for each in partitions
    )


def _other_database(owners: Mapping[str, bytes] | None, identity: str | None) -> str:
    """The sentence where streams are another database's; "": they are this one's, or that is not known."""
    if not owners or identity is None:
        return ""
    differ = (difference(key, held, identity) for key, held in owners.items())
    return next((text for text in differ if text), "")
