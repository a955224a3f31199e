"""The servers that everything is measured on: of one's own, empty before each run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey, Value
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


class Servers:
    """A Valkey and a Postgres in a temporary folder. A context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.valkey = stack.enter_context(EmbeddedValkey(folder / "valkey", config=VALKEY))
            self.postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", config=POSTGRES))
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

    def empty(self) -> None:
        """An empty Redis with an empty log."""
        self.redis.flushall()
        self.redis.bgrewriteaof()
        wait(lambda: not self.redis.info("persistence")["aof_rewrite_in_progress"])

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


def wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Until the condition holds."""
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError("waited in vain")
        sleep(0.01)
