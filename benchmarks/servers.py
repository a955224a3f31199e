"""The servers that everything is measured on: of one's own, empty before each run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey, Value
from risk_devkit.groups import ValkeyCluster
from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import FIELD, decode
from risk_worker.database import migrations
from risk_worker.stream.source import connect

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# Everything else is at its default. The log is rewritten between the runs (empty()), not in the midst of one.
VALKEY: dict[str, Value] = {"auto-aof-rewrite-percentage": 0}
POSTGRES: dict[str, Value] = {"track_commit_timestamp": True}
MIGRATED = "migrated"
STREAM = Keys(0).snapshots


@contextmanager
def database(url: str | None, name: str) -> Iterator[str]:
    """A new database on the server of a URL, which is dropped at the end; None: of an embedded Postgres."""
    if url is None:
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedPostgres(Path(folder), config=POSTGRES) as server,
        ):
            yield server.url
        return
    new = sql.Identifier(name)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new))
        db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(new))
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(new))


class Databases(Protocol):
    """Where what is measured is stored."""

    def database(self, template: str = MIGRATED) -> AbstractContextManager[str]:
        """The URL of a fresh database of this kind, everything of it on disk."""

    @property
    def postgres_pid(self) -> int:
        """Of the server."""


class Servers:
    """A Valkey and a Postgres in a temporary folder, and clusters on demand. A context manager."""

    def __init__(self, postgres: Mapping[str, Value] = POSTGRES) -> None:
        """postgres: its settings that are not at their default."""
        self._settings = postgres
        self._stack = ExitStack()
        self._stores: dict[int, Store] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.valkey = stack.enter_context(EmbeddedValkey(folder / "valkey", config=VALKEY))
            self.postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", config=self._settings))
            self.redis: Any = stack.enter_context(connect(self.valkey.url))
            self.sql("CREATE DATABASE {}", MIGRATED)
            migrations.up(self.postgres.url_of(MIGRATED))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def sql(self, statement: str, *names: str) -> None:
        """Run a statement in no transaction; {} stand for names."""
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    @contextmanager
    def database(self, template: str = MIGRATED) -> Iterator[str]:
        """The URL of a fresh copy of a database, everything of it on disk."""
        self.sql("CREATE DATABASE measured TEMPLATE {} STRATEGY file_copy", template)
        try:
            self.sql("CHECKPOINT")
            yield self.postgres.url_of("measured")
        finally:
            self.sql("DROP DATABASE measured WITH (FORCE)")

    @property
    def postgres_pid(self) -> int:
        """Of the Postgres."""
        return self.postgres.pid

    def empty(self) -> None:
        """An empty Redis with an empty log."""
        _empty(self.redis)

    def store(self, nodes: int) -> Store:
        """Where the streams are: a cluster of so many masters, which stays; 0: the Valkey, which is none."""
        if nodes not in self._stores:
            if nodes:
                cluster = ValkeyCluster(
                    self._folder / f"cluster-{nodes}",
                    masters=nodes,
                    replicas=0,
                    config={"appendfsync": self.valkey.appendfsync, **VALKEY},
                )
                self._stack.enter_context(cluster)
                made = Store(cluster.url, cluster.nodes)
            else:
                made = Store(self.valkey.url, [self.valkey])
            self._stores[nodes] = self._stack.enter_context(made)
        return self._stores[nodes]

    def fill(self, payloads: Sequence[bytes], stream: str = STREAM, field: bytes = FIELD) -> None:
        """Put the payloads into a stream: pipelined XADD, 500 a pipeline."""
        for first in range(0, len(payloads), 500):
            pipeline = self.redis.pipeline(transaction=False)
            for payload in payloads[first : first + 500]:
                pipeline.xadd(stream, {field: payload})
            pipeline.execute()

    def note(self, payloads: Sequence[bytes], keys: Keys) -> None:
        """Note epochs and seqs as the script that admits them would have."""
        epochs: dict[str, int] = {}
        admitted: dict[str, int] = {}
        for each in map(decode, payloads):
            epochs[each.trader_id] = max(each.epoch, epochs.get(each.trader_id, 0))
            incarnation = f"{each.epoch}:{each.trader_id}"
            admitted[incarnation] = max(each.seq, admitted.get(incarnation, 0))
        self.redis.hset(keys.epochs, mapping=epochs)
        self.redis.hset(keys.admitted, mapping=admitted)


class Store:
    """The servers that hold the streams: one, or the masters of a cluster. A context manager."""

    def __init__(self, url: str, servers: Sequence[EmbeddedValkey]) -> None:
        self.url = url
        self._servers = servers
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.redis: Any = self._stack.enter_context(connect(self.url))
        self._each: list[Any] = [self._stack.enter_context(connect(server.url)) for server in self._servers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def pids(self) -> list[int]:
        """Of the servers."""
        return [server.pid for server in self._servers]

    def empty(self) -> None:
        """Nothing in any of them, and empty logs."""
        for each in self._each:
            _empty(each)

    def length(self, partitions: Iterable[int]) -> int:
        """How many snapshots wait in these partitions."""
        return sum(self.redis.xlen(Keys(partition).snapshots) for partition in partitions)

    def stream_bytes(self, partitions: Iterable[int]) -> int:
        """The memory that the streams of these partitions take."""
        return sum(
            self.redis.memory_usage(Keys(partition).snapshots, samples=0) or 0 for partition in partitions
        )

    def sum_of(self, section: str, *names: str) -> int:
        """What the servers' INFO counts under these names, together."""
        return sum(each.info(section)[name] for each in self._each for name in names)


def _empty(redis: Any) -> None:
    redis.flushall()
    redis.bgrewriteaof()
    wait(lambda: not redis.info("persistence")["aof_rewrite_in_progress"])


def wait(condition: Callable[[], bool], timeout_s: float = 60, every_s: float = 0.01) -> None:
    """Until the condition holds."""
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError("waited in vain")
        sleep(every_s)
