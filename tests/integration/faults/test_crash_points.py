"""The process dies between every two steps; its successor finds nothing lost and nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from risk_worker.database.store import PostgresStore
from risk_worker.stream.source import StreamSource
from tests.support.factory import payload
from tests.support.ledger import KEYS, Ledger, drain_all
from tests.support.process import ChildProcess
from tests.support.reads import read_batch
from tests.support.template import CRASHED, Template
from tests.support.wait import wait_until

DrainAndDie = Callable[[str], None]

# A backlog: read, decode, COPY into history; meanwhile state and COMMIT of the batch before; acknowledge.
BACKLOG = [
    "before risk_worker.stream.source:StreamSource.read",
    "after risk_worker.stream.source:StreamSource.read",
    "before risk_worker.drain.prefetch:decode_entries",
    "after risk_worker.drain.prefetch:decode_entries",
    "before risk_worker.database.store:PostgresStore.begin",
    "after risk_worker.database.store:PostgresStore._connected",
    "before risk_worker.database.store:_insert_history",
    "after risk_worker.database.store:_insert_history",
    "before risk_worker.database.store:PostgresStore.commit",
    "before risk_worker.database.store:_save_state",
    "after risk_worker.database.store:_save_state",
    "after risk_worker.database.store:_insert_dead_letters",
    "before psycopg.transaction:Transaction.__exit__",  # COMMIT
    "after psycopg.transaction:Transaction.__exit__",
    "after risk_worker.database.store:PostgresStore.commit",
    "before risk_worker.stream.source:StreamSource.acknowledge",
    "after risk_worker.stream.source:StreamSource.acknowledge",
    "after risk_worker.database.store:PostgresStore.begin#2",  # two transactions have rows
    "before risk_worker.database.store:PostgresStore.commit#2",
    "before psycopg:Copy.write_row#3",  # in the middle of history's COPY
    "after risk_worker.database.store:_insert_history#3",
    "after risk_worker.database.store:PostgresStore.commit#3",
    "before risk_worker.stream.source:StreamSource.acknowledge#3",
    "after risk_worker.stream.source:StreamSource.acknowledge#3",
    "after risk_worker.stream.source:StreamSource.read#4",
]
# Without a backlog: one transaction, in one thread.
ALONE = [
    "before risk_worker.database.store:PostgresStore.save_all",
    "before risk_worker.database.store:_save_state",
    "before psycopg.transaction:Transaction.__exit__",
    "after psycopg.transaction:Transaction.__exit__",
    "after risk_worker.database.store:PostgresStore.save_all",
    "before risk_worker.stream.source:StreamSource.acknowledge",
]
# A batch that is partly stored already, with an entry that is none and a row that is refused.
CAREFUL = [
    "before risk_worker.database.store:_insert_what_can_be",
    "before risk_worker.database.store:_insert#1",
    "after risk_worker.database.store:_insert#1",
    "before risk_worker.database.store:_save_state",  # history has its half, state has not
    "after risk_worker.database.store:_save_state",
    "after risk_worker.database.store:_insert#2",
    "after risk_worker.database.store:_insert_what_can_be#1",
    "before risk_worker.database.store:_insert_dead_letters",
    "after risk_worker.database.store:_insert_dead_letters",
    "after risk_worker.database.store:PostgresStore.save_all",
    "before risk_worker.stream.source:StreamSource.acknowledge",
    "after risk_worker.stream.source:StreamSource.acknowledge",
]

# A batch that cannot be stored just now.
LATER = [
    "before risk_worker.database.store:PostgresStore.close",  # the transaction failed, the connection has not
    "before risk_worker.stream.source:StreamSource.failed",
    "after risk_worker.stream.source:StreamSource.failed",
    "before risk_worker.database.store:PostgresStore.save_all#2",
    "before risk_worker.drain.prefetch:Prefetcher.rewind",
    "after risk_worker.drain.prefetch:Prefetcher.rewind",
    "before risk_worker.drain.retry:OutageLog.record_failure",
    "after risk_worker.stream.source:StreamSource.read#3",
]

REFUSED = payload("r", 1, reason="refused")


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with Template() as started:
        yield started


@pytest.fixture
def drain_and_die(template: Template, environ: dict[str, str], tmp_path: Path) -> Iterator[DrainAndDie]:
    def run(point: str) -> None:
        log = tmp_path / "log"
        template.start("drain", log, environ, crash_at=point)
        assert template.ended() == CRASHED, f"{point} was not reached; log:\n{log.read_text()}"

    yield run
    template.stop()


@pytest.mark.parametrize(
    ("point", "count"), [*((point, 200) for point in BACKLOG), *((point, 3) for point in ALONE)]
)
def test_a_batch_is_stored_once_wherever_its_drain_dies(
    point: str, count: int, ledger: Ledger, drain_and_die: DrainAndDie, redis_url: str, database_url: str
) -> None:
    ledger.report(count)
    drain_and_die(point)
    ledger.report(5)
    drain_all(redis_url, database_url, batch_size=40)
    ledger.check()


@pytest.mark.parametrize("point", CAREFUL)
def test_a_difficult_batch_is_stored_once_wherever_its_drain_dies(
    point: str,
    ledger: Ledger,
    client: Any,
    db: psycopg.Connection,
    drain_and_die: DrainAndDie,
    redis_url: str,
    database_url: str,
) -> None:
    db.execute("ALTER TABLE risk_state_history ADD CHECK (reason <> 'refused')")
    ledger.report(2)
    source = StreamSource(client, [0], block_s=0.01)
    with PostgresStore(database_url) as store:
        store.save(read_batch(source))  # and was not acknowledged
    ledger.poison(b"nonsense")
    ledger.poison(REFUSED)
    drain_and_die(point)
    ledger.report(5)
    drain_all(redis_url, database_url)
    ledger.check()


@pytest.mark.parametrize("point", LATER)
def test_a_batch_that_is_put_off_is_stored_once_wherever_its_drain_dies(
    point: str,
    ledger: Ledger,
    db: psycopg.Connection,
    drain_and_die: DrainAndDie,
    redis_url: str,
    database_url: str,
) -> None:
    ledger.report(10)
    name = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    drain_and_die(point)
    with psycopg.connect(database_url, autocommit=True) as repairer:
        repairer.execute("SET default_transaction_read_only = off")
        repairer.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    drain_all(redis_url, database_url)
    ledger.check(duplicates=0)


# A worker, from its start over the end of a time slice to its stop. Each of its lives ends at the next point,
# so that each has to put in order what the one before left behind.
LIVES = [
    "before risk_worker.database.migrations:wait_for",
    "before risk_worker.database.migrations:up",
    "after risk_worker.database.migrations:up",
    "before risk_worker.runtime.scheduler:DrainScheduler.ensure_enqueued",
    "after risk_worker.runtime.scheduler:DrainScheduler.remove_dead_workers",
    "before rq.queue:Queue.enqueue_call",  # watching the old job, which is still there
    "after rq.queue:Queue.enqueue_call",
    "after risk_worker.runtime.worker:DrainWorker.bootstrap",
    "before risk_worker.runtime.worker:DrainWorker.execute_job",  # taken off the queue, not yet begun
    "after risk_worker.runtime.worker:DrainWorker._register_again",
    "after risk_worker.runtime.worker:DrainWorker.prepare_execution",
    "before risk_worker.runtime.worker:DrainWorker.perform_job",
    "after risk_worker.drain.prefetch:Prefetcher.next",  # in the middle of a time slice
    "after risk_worker.runtime.jobs:drain",
    "after risk_worker.runtime.worker:DrainWorker.perform_job",  # the job is done and gone
    "before risk_worker.runtime.scheduler:DrainScheduler.ensure_enqueued#2",
    "before rq.queue:Queue.enqueue_call#2",
    "after risk_worker.runtime.worker:DrainWorker.execute_job",
]
LAST_MOMENTS = [
    "before risk_worker.runtime.worker:DrainWorker.request_stop",
    "after risk_worker.runtime.worker:DrainWorker.request_stop",
    "before risk_worker.runtime.worker:DrainWorker.register_death",
    "after risk_worker.runtime.worker:DrainWorker.register_death",
]


@pytest.mark.slow
def test_a_worker_may_die_at_every_point_of_its_life(
    template: Template, client: Any, empty_database_url: str, environ: dict[str, str], tmp_path: Path
) -> None:
    environ = {**environ, "POSTGRES_URL": empty_database_url}
    ledger = Ledger(client, empty_database_url)
    for number, point in enumerate([*LIVES, *LAST_MOMENTS]):
        ledger.report(10)
        log = tmp_path / f"{number}.log"
        pid = template.start("worker", log, environ, crash_at=point)
        try:
            if point in LAST_MOMENTS:
                wait_until(lambda: is_drained(client), 10, f"the drain before {point}")
                os.kill(pid, signal.SIGTERM)
            assert template.ended() == CRASHED, f"{point} was not reached; log:\n{log.read_text()}"
        finally:
            template.stop()
    ledger.report(10)
    with ChildProcess(tmp_path / "last.log", environ) as worker:
        wait_until(ledger.is_stored, 5, "the last one to drain")
        assert worker.stop() == 0
    ledger.check()


def is_drained(client: Any) -> bool:
    status = client.hget("rq:job:drain-0", "status")
    return bool(status == b"started" and client.xlen(KEYS.snapshots) == 0)


def test_a_point_that_is_not_reached_is_seen(ledger: Ledger, drain_and_die: DrainAndDie) -> None:
    ledger.report(1)
    with pytest.raises(AssertionError, match="was not reached"):
        drain_and_die("after risk_worker.database.store:_copy#99")
