"""The table of faults: how each is caused, and which line of which instrument names it.

docs/operate/alerts.md shows it to the person on call; tests/system/test_faults.py causes each of them on a
running system, and holds every instrument to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from risk_producer.contract.keys import Keys
from tests.support.disk import filled
from tests.support.running import MAXLEN, PARTITIONS, RunningSystem
from tests.support.wait import wait_until

Cause = Callable[[RunningSystem], AbstractContextManager[None]]
OTHER = "00000000-0000-4000-8000-000000000000"
WELL = "✓ No problem was found."
AS_IT_SHOULD_BE = "✓ Everything is as it should be."


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row of the table. What is not given is not there: no problem, no failing check, no line, no alert."""

    name: str
    cause: Cause
    problems: set[str] = field(default_factory=set)
    """Names of all problems of `riskstream status`."""
    status: str = WELL
    """A text of its screen."""
    failing: set[str] = field(default_factory=set)
    """Link and check, of all checks of `riskstream doctor` that fail."""
    may_fail: set[str] = field(default_factory=set)
    """The same of those that may fail too."""
    warned: set[str] = field(default_factory=set)
    """The same of all that warn."""
    doctor: str = AS_IT_SHOULD_BE
    """A text of its answer."""
    worker: str = ""
    """A text of the line in the worker's log."""
    exporter: str = ""
    """A text of the line in the exporter's log."""
    also: tuple[str, ...] = ()
    """Texts of other lines that may be in the logs, from WARNING on."""
    ready: str = "ready"
    """A text of what /readyz of the exporter says; empty: nothing, or not at once."""
    alerts: set[str] = field(default_factory=set)
    """All alerts that fire."""
    environ: dict[str, str] = field(default_factory=dict)
    """Of the commands alone."""
    at_once: bool = False
    """Doctor is asked before the workers have drawn their conclusions, which would be one more line."""
    serious: bool = True
    """Whether `riskstream status` has exit status 1, where there is a problem."""


ENDS = (
    "The worker stores again after",
    "The worker stores all partitions again",
    "The worker uses RQ again after",
    "The worker can use Postgres again",
    "The worker does not wait for a COMMIT any more",
    "The worker renews its lease of drain job",
    "is drained again after",
    "The exporter gets answers from Redis again",
    "The exporter gets answers for all partitions again",
    "The exporter gets answers from Postgres again",
    "The exporter can reconcile again",
    "The reconciliation finds nothing wrong any more",
)
"""Lines that say that it is over."""


@contextmanager
def nothing(_system: RunningSystem) -> Iterator[None]:
    yield


# Workers and the exporter


@contextmanager
def worker_killed(system: RunningSystem) -> Iterator[None]:
    system.worker.kill()
    try:
        yield
    finally:
        system.start_worker()


@contextmanager
def worker_frozen(system: RunningSystem) -> Iterator[None]:
    system.freeze()
    try:
        yield
    finally:
        system.thaw()


@contextmanager
def no_worker(system: RunningSystem) -> Iterator[None]:
    assert system.worker.stop() == 0
    try:
        yield
    finally:
        system.start_worker()


@contextmanager
def no_worker_and_a_full_stream(system: RunningSystem) -> Iterator[None]:
    with no_worker(system):
        pipeline = system.client.pipeline()
        for _ in range(MAXLEN // PARTITIONS):
            pipeline.xadd(Keys(0).snapshots, {"s": "{}"})
        added: list[bytes] = pipeline.execute()
        try:
            yield
        finally:
            system.client.xdel(Keys(0).snapshots, *added)


@contextmanager
def exporter_killed(system: RunningSystem) -> Iterator[None]:
    system.exporter.kill()
    try:
        yield
    finally:
        system.start_exporter()


@contextmanager
def workers_suspended(system: RunningSystem) -> Iterator[None]:
    system.client.set("rq:suspended", 1)
    try:
        yield
    finally:
        system.client.delete("rq:suspended")


# Redis


@contextmanager
def redis_stopped(system: RunningSystem) -> Iterator[None]:
    system.redis.kill()
    try:
        yield
    finally:
        system.redis.start()


@contextmanager
def redis_frozen(system: RunningSystem) -> Iterator[None]:
    system.redis.pause()
    try:
        yield
    finally:
        system.redis.resume()


def configured(name: str, value: str | int) -> Cause:
    """Redis with another setting for a while."""

    @contextmanager
    def caused(system: RunningSystem) -> Iterator[None]:
        before: Any = system.client.config_get(name)[name]
        system.client.config_set(name, value)
        try:
            yield
        finally:
            system.client.config_set(name, before)

    return caused


@contextmanager
def redis_nearly_full(system: RunningSystem) -> Iterator[None]:
    """By a key of another program, so that the connections of those who look are a small part."""
    system.client.setrange("another:program", 20 << 20, b"x")
    used = int(system.client.info("memory")["used_memory"])
    try:
        with configured("maxmemory", int(used / 0.9))(system):
            yield
    finally:
        system.client.delete("another:program")


@contextmanager
def redis_replica(system: RunningSystem) -> Iterator[None]:
    system.client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        system.client.replicaof("no", "one")


@contextmanager
def redis_password(system: RunningSystem) -> Iterator[None]:
    """As after a restart of Redis: who is connected would stay so."""
    with system.connect(password="geheim") as knows:
        system.client.config_set("requirepass", "geheim")
        knows.ping()
        try:
            for kind in ("normal", "pubsub"):
                knows.client_kill_filter(_type=kind, skipme=True)
            yield
        finally:
            knows.config_set("requirepass", "")


@contextmanager
def redis_emptied(system: RunningSystem) -> Iterator[None]:
    """While nothing is in flight, which would be lost for good."""
    keys = [Keys(partition) for partition in range(PARTITIONS)]
    with system.traders.without(*system.traders.NAMES):
        wait_until(system.drained, 20, "all to be stored")
        system.client.flushall()
        run_id = str(system.client.info("server")["run_id"]).encode()
        wait_until(
            lambda: all(system.client.hget(of.floors, "") == run_id for of in keys), 20, "both compared"
        )
    try:
        yield
    finally:  # an hour later
        for of in keys:
            system.client.hdel(of.counters, "restored_ms")


@contextmanager
def other_database(system: RunningSystem) -> Iterator[None]:
    own = system.client.get(Keys(1).database)
    assert isinstance(own, bytes)
    system.client.set(Keys(1).database, OTHER)
    try:
        yield
    finally:
        system.client.set(Keys(1).database, own)


@contextmanager
def poison(system: RunningSystem) -> Iterator[None]:
    system.client.xadd(Keys(0).snapshots, {"s": "{}"})
    try:
        yield
    finally:
        with system.administrator() as db:
            db.execute("DELETE FROM risk_dead_letter")


# Postgres


@contextmanager
def postgres_stopped(system: RunningSystem) -> Iterator[None]:
    system.postgres.kill()
    try:
        yield
    finally:
        system.postgres.start()


@contextmanager
def postgres_frozen(system: RunningSystem) -> Iterator[None]:
    system.postgres.pause()
    try:
        yield
    finally:
        system.postgres.resume()


def in_postgres(cause: str, undo: str) -> Cause:
    """Statements of an administrator."""

    @contextmanager
    def caused(system: RunningSystem) -> Iterator[None]:
        with system.administrator() as db:
            db.execute(cause.encode())
            try:
                yield
            finally:
                db.execute(undo.encode())

    return caused


READ_ONLY = in_postgres(
    "ALTER DATABASE risk SET default_transaction_read_only = on; "
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'riskstream-worker'",
    "SET default_transaction_read_only = off; ALTER DATABASE risk RESET default_transaction_read_only; "
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'riskstream-worker'",
)
"""As after a restart of Postgres: who is connected would go on."""


@contextmanager
def disk_full(system: RunningSystem) -> Iterator[None]:
    if system.without_disk:
        pytest.skip(system.without_disk)
    with filled(system.disk):
        yield


@contextmanager
def a_lock(system: RunningSystem) -> Iterator[None]:
    with system.administrator() as holder, holder.transaction():
        holder.execute("LOCK TABLE risk_state IN SHARE MODE")
        yield


@contextmanager
def a_missing_row(system: RunningSystem) -> Iterator[None]:
    with system.administrator() as db:
        db.execute("SET session_replication_role = replica")  # history is append-only otherwise
        db.execute(
            "CREATE TEMP TABLE kept AS SELECT * FROM risk_state_history WHERE trader_id = 'bob' "
            "ORDER BY epoch, seq LIMIT 1"
        )
        db.execute(
            "DELETE FROM risk_state_history AS history USING kept "
            "WHERE history.trader_id = kept.trader_id AND history.recorded_at = kept.recorded_at "
            "AND history.epoch = kept.epoch AND history.seq = kept.seq"
        )
        try:
            yield
        finally:
            db.execute("INSERT INTO risk_state_history SELECT * FROM kept")


# Traders


@contextmanager
def silent_bob(system: RunningSystem) -> Iterator[None]:
    with system.traders.without("bob"):
        yield


def sending(**fields: Any) -> Cause:
    """Alice's snapshots have these fields."""

    @contextmanager
    def caused(system: RunningSystem) -> Iterator[None]:
        with system.traders.sending(**fields):
            yield

    return caused


NO_RQ = (
    "The worker cannot use RQ",
    "The worker cannot renew its lease",
    "The worker lost its lease",
    "The worker waits for RQ's Redis",
    "could not connect to Redis instance",  # RQ's own
    "found an unhandled exception, quitting",  # RQ's own
    "is dead",
    "Re-enqueued",
    "could not be enqueued",
    "The worker cannot store partition",
    "Redis rejected a command with which",
)
"""What follows from a Redis that does not answer, or takes nothing."""
NO_POSTGRES = (
    "The worker could not store a batch of",
    "The worker cannot store",
    "The worker has waited for a COMMIT",
    "The worker cannot use Postgres",
    "riskstream waits for the database",
    "The worker could not seal history",
)
"""What follows from a Postgres that does not answer."""
NO_RECONCILIATION = "The exporter could not reconcile"

_ALL = (
    Fault(name="none", cause=nothing),
    Fault(
        name="worker killed",
        cause=worker_killed,
        problems={"no_worker"},
        status="has ended.",
        warned={"rq workers"},
        doctor="no worker has been heard of",
        also=("is dead", "Re-enqueued"),
        ready="No worker is alive",
        alerts={"RiskNoWorker"},
    ),
    Fault(
        name="worker frozen",
        cause=worker_frozen,
        problems={"no_worker"},
        status="has not been heard of for",
        warned={"rq workers"},
        doctor="no worker has been heard of",
        also=("The worker lost its lease of drain job",),
        ready="No worker is alive",
        alerts={"RiskNoWorker"},
    ),
    Fault(
        name="no worker",
        cause=no_worker,
        problems={"no_worker"},
        status="✗ No worker is running",
        warned={"rq workers"},
        doctor="Start one: riskstream worker",
        ready="No worker is alive",
        alerts={"RiskNoWorker"},
    ),
    Fault(
        name="no worker, and a stream is full",
        cause=no_worker_and_a_full_stream,
        problems={"no_worker", "stream_full"},
        status="its traders have to wait",
        warned={"rq workers"},
        doctor="Start one: riskstream worker",
        ready="No worker is alive",
        alerts={"RiskNoWorker", "RiskStreamNearlyFull"},
    ),
    Fault(
        name="RQ's workers are suspended",
        cause=workers_suspended,
        problems={"workers_suspended"},
        status="rq resume lets them go on",
        failing={"rq suspended"},
        doctor="RQ's workers are suspended",
        worker="RQ's workers are suspended",
        also=("has not been drained for",),
        ready="No worker drains the partitions 0, 1",
        alerts={"RiskPartitionWithoutWorker"},
    ),
    Fault(
        name="Redis stopped",
        cause=redis_stopped,
        problems={"redis_away"},
        status="Connection refused",
        failing={"redis connection"},
        doctor="does not answer",
        worker="The worker cannot store",
        exporter="The exporter gets no answer from Redis",
        also=(*NO_RQ, NO_RECONCILIATION),
        ready="does not answer",
        alerts={"RiskRedisDown"},
    ),
    Fault(
        name="Redis frozen",
        cause=redis_frozen,
        problems={"redis_away"},
        status="does not answer",
        failing={"redis connection"},
        doctor="does not answer",
        worker="The worker cannot store",
        exporter="The exporter gets no answer from Redis",
        also=(*NO_RQ, NO_RECONCILIATION),
        ready="does not answer",
        alerts={"RiskRedisDown"},
    ),
    Fault(
        name="Redis wants a password",
        cause=redis_password,
        problems={"redis_away"},
        status="asks for a password",
        failing={"redis connection"},
        doctor="asks for a password",
        worker="as it asks for a password",
        exporter="The exporter gets no answer from Redis",
        also=(*NO_RQ, NO_RECONCILIATION),
        ready="asks for a password",
        alerts={"RiskRedisDown"},
    ),
    Fault(
        name="Redis is full (maxmemory)",
        cause=configured("maxmemory", "1mb"),
        problems={"redis_refuses_writes"},
        status="maxmemory allows (",
        failing={"redis writes", "redis commands"},
        warned={"redis memory"},
        doctor="OOM",
        exporter="Traders cannot send",
        worker="The worker cannot use RQ",
        also=NO_RQ,
        at_once=True,
        ready="maxmemory allows (",
        alerts={"RiskRedisRefusesWrites"},
    ),
    Fault(
        name="Redis is read-only (a replica)",
        cause=redis_replica,
        problems={"redis_refuses_writes"},
        status="as it is a replica (",
        failing={"redis role", "redis writes", "redis commands"},
        doctor="is a replica",
        exporter="Traders cannot send",
        worker="The worker cannot use RQ",
        also=NO_RQ,
        at_once=True,
        ready="as it is a replica (",
        alerts={"RiskRedisRefusesWrites"},
    ),
    Fault(
        name="Redis has too few replicas",
        cause=configured("min-replicas-to-write", 1),
        problems={"redis_refuses_writes"},
        status="fewer replicas than",
        failing={"redis writes", "redis commands"},
        doctor="fewer replicas than",
        exporter="Traders cannot send",
        worker="The worker cannot use RQ",
        also=NO_RQ,
        at_once=True,
        ready="fewer replicas than",
        alerts={"RiskRedisRefusesWrites"},
    ),
    Fault(
        name="Redis is nearly full",
        cause=redis_nearly_full,
        problems={"redis_nearly_full"},
        status="of the memory that its maxmemory allows",
        warned={"redis memory"},
        doctor="Raise maxmemory",
        alerts={"RiskRedisNearlyFull"},
    ),
    Fault(
        name="Redis may evict",
        cause=configured("maxmemory-policy", "allkeys-lru"),
        problems={"redis_evicts"},
        status="may remove snapshots",
        failing={"redis eviction"},
        doctor="may remove what is not stored yet",
        alerts={"RiskRedisMayEvict"},
    ),
    Fault(
        name="Redis emptied",
        cause=redis_emptied,
        problems={"redis_lost_data"},
        status="Redis is new, or came back without its data,",
        worker="which is new or had lost data",
        also=("The worker lost its lease of drain job",),
        alerts={"RiskRedisLostData"},
    ),
    Fault(
        name="another database behind the namespace",
        cause=other_database,
        problems={"other_database"},
        status=f"names the database {OTHER}",
        failing={"both database"},
        doctor=OTHER,
        worker="as it is another database's",
        also=("has not been drained for", "The worker cannot compare partition 1", NO_RECONCILIATION),
        ready="",
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="Postgres stopped",
        cause=postgres_stopped,
        problems={"postgres_away"},
        status="Connection refused",
        failing={"postgres connection"},
        doctor="Connection refused",
        worker="The worker cannot use Postgres",
        exporter="The exporter gets no answer from Postgres",
        also=(*NO_POSTGRES, NO_RECONCILIATION),
        at_once=True,
        ready="Postgres does not answer",
        alerts={"RiskPostgresDown"},
    ),
    Fault(
        name="Postgres frozen",
        cause=postgres_frozen,
        problems={"postgres_away"},
        status="it did not answer within",
        failing={"postgres connection"},
        doctor="no answer",
        worker="The worker has waited for a COMMIT for",
        exporter="The exporter gets no answer from Postgres",
        also=(*NO_POSTGRES, NO_RECONCILIATION),
        at_once=True,
        ready="Postgres does not answer",
        alerts={"RiskPostgresDown"},
    ),
    Fault(
        name="Postgres is read-only",
        cause=READ_ONLY,
        problems={"postgres_read_only"},
        status="default_transaction_read_only is on",
        failing={"postgres writes", "postgres probe", "rq workers"},
        doctor="default_transaction_read_only is on",
        worker="The worker cannot store: cannot execute",
        also=("The worker could not store a batch of", "The worker has waited for a COMMIT"),
        ready="cannot store: cannot execute",
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="a table is missing",
        cause=in_postgres(
            "ALTER TABLE risk_state RENAME TO risk_state_elsewhere",
            "ALTER TABLE risk_state_elsewhere RENAME TO risk_state",
        ),
        problems={"tables_missing"},
        status="lacks the table risk_state,",
        failing={"postgres privileges", "rq workers"},
        doctor="tables are missing: risk_state",
        worker='The worker cannot store: relation "risk_state" does not exist',
        also=("The worker has waited for a COMMIT", NO_RECONCILIATION),
        ready='cannot store: relation "risk_state" does not exist',
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="rights revoked",
        cause=in_postgres(
            "REVOKE INSERT ON risk_state_history, risk_dead_letter FROM risk_worker",
            "GRANT INSERT ON risk_state_history, risk_dead_letter TO risk_worker",
        ),
        problems={"grants_missing"},
        status='ON risk_state_history TO "risk_worker"',
        failing={"postgres privileges", "postgres probe", "rq workers"},
        doctor='ON risk_dead_letter TO "risk_worker";',
        worker="The worker cannot store: permission denied for table",
        also=("The worker has waited for a COMMIT",),
        ready="cannot store: permission denied for table",
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="the disk of Postgres is full",
        cause=disk_full,
        problems={"cannot_store"},
        status="No space left on device",
        failing={"rq workers"},
        may_fail={"postgres probe"},  # where the page of the table that it writes into is full, too
        doctor="No space left on device",
        worker="No space left on device",
        also=("The worker has waited for a COMMIT", NO_RECONCILIATION),
        ready="No space left on device",
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="another session locks a table",
        cause=a_lock,
        problems={"commit_waits"},
        status="has waited for a COMMIT for",
        worker="The worker has waited for a COMMIT for",
        also=(
            *("The worker could not store a batch of", "The worker cannot store", "has not been drained for"),
            "The worker could not seal history",  # while a transaction has been inserting for long
        ),
        alerts={"RiskNothingStored"},
    ),
    Fault(
        name="an entry that is no snapshot",
        cause=poison,
        problems={"dead_letters"},
        status="1 dead letter waits",
        worker="could not be stored and are dead letters",
        alerts={"RiskDeadLetters"},
    ),
    Fault(
        name="a row was removed from history",
        cause=a_missing_row,
        exporter="The reconciliation found something wrong",
        alerts={"RiskSnapshotsLost"},
    ),
    Fault(
        name="a trader is silent",
        cause=silent_bob,
        alerts={"RiskTraderSilent"},
    ),
    Fault(
        name="a trader has paused",
        cause=sending(trading_paused=True, reason="limit"),
        status="1 paused",
        alerts={"RiskTraderPaused"},
    ),
    Fault(
        name="a drawdown",
        cause=sending(drawdown_pct=7.5),
        alerts={"RiskTraderDrawdown"},
    ),
    Fault(
        name="the exporter killed",
        cause=exporter_killed,
        ready="",
        alerts={"RiskExporterDown"},
    ),
    Fault(
        name="another RISK_PARTITIONS here",
        cause=nothing,
        problems={"partitions_differ"},
        status="! RISK_PARTITIONS is 5 here, and the deployment has 2 partitions",
        warned={"redis partitions"},
        doctor="! redis partitions",
        environ={"RISK_PARTITIONS": "5"},
        serious=False,
    ),
)
FAULTS = {each.name: each for each in _ALL}
