"""What is wrong: pure functions of the status, so that every instrument names the same.

A cause stands for its consequences: while Postgres cannot be used, no line says that nothing is drained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from risk_producer.contract.keys import Keyspace
from risk_worker.status.model import PartitionStatus, Problem, Status, WorkerStatus
from risk_worker.stream.progress import BOUND_S, duration
from risk_worker.stream.server import NO_EVICTION

FILLED: Final = 0.8
"""From this part of a stream's cap on, or of Redis' memory, it is nearly full."""
RESTORED_S: Final = 3600.0
"""For so long a loss of Redis' data is a problem: what was lost should be looked at."""
COMMIT_WAIT_S: Final = 15.0
FORBIDDEN: Final = "the user may not do it"
"""In the sentence of a server that refuses this user alone."""

_START: Final = "Start one: riskstream worker"


def problems(status: Status) -> list[Problem]:
    """Everything that is wrong, the causes first."""
    return [each for find in FINDERS for each in find(status)]


def is_well(status: Status) -> bool:
    """Whether nothing is wrong that needs a person."""
    return not any(each.serious for each in problems(status))


def redis_away(status: Status) -> Iterator[Problem]:
    """Redis, or a node of it, does not answer."""
    if status.redis.error:
        yield Problem("redis_away", *_split(status.redis.error))
    named: set[int] = set()
    for server in status.redis.servers:
        if server.away and server.refusal:
            named.update(server.partitions)
            what, todo = _split(server.refusal)
            if len(status.redis.servers) > 1:
                what += f"; it has {_listed_partitions(status, server.partitions)}"
            yield Problem("redis_away", what, todo)
    others = [each.partition for each in status.partitions or () if each.away and each.partition not in named]
    if others:
        yield Problem(
            "redis_away",
            f"No node of the Redis Cluster answers for {_listed_partitions(status, others)}",
            "Look at CLUSTER INFO, and at the nodes that are down",
        )


def redis_refuses_writes(status: Status) -> Iterator[Problem]:
    """Redis answers, and takes no writes: traders hold what they accept in memory."""
    for server in status.redis.servers:
        if server.refusal and not server.away:
            if FORBIDDEN in server.refusal:
                yield Problem(
                    "redis_not_tried",
                    f"Whether Redis at {server.address} takes writes is not known: this user may not try it",
                    "Give the user XADD, or ask as the user of the workers",
                    serious=False,
                )
            else:
                yield Problem("redis_refuses_writes", *_split(server.refusal))


def redis_memory(status: Status) -> Iterator[Problem]:
    """Redis is nearly full, or would remove what is not stored yet."""
    for server in status.redis.servers:
        share = server.memory_share
        if share is not None and share >= FILLED and not server.refusal:
            yield Problem(
                "redis_nearly_full",
                f"Redis at {server.address} uses {share:.0%} of the memory that its maxmemory allows",
                "Raise maxmemory, or start a worker where the streams are long",
            )
        if server.eviction_policy not in (None, NO_EVICTION) and server.memory_limit:
            yield Problem(
                "redis_evicts",
                f"Redis at {server.address} may remove snapshots that are not stored yet: its "
                f"maxmemory-policy is {server.eviction_policy}",
                f"CONFIG SET maxmemory-policy {NO_EVICTION}, and the same in its configuration file",
            )


def queue_away(status: Status) -> Iterator[Problem]:
    """RQ's own Redis does not answer: workers drain without it, and do not share."""
    if status.queue.separate and status.queue.error:
        yield Problem(
            "queue_away",
            f"RQ's Redis {status.queue.url} does not answer ({status.queue.error}), so it is not known which "
            "workers there are",
            "Look whether it runs; RQ_REDIS_URL names it",
        )


def postgres(status: Status) -> Iterator[Problem]:
    """Postgres cannot be used as it has to be."""
    found = status.postgres
    if found.error:
        yield Problem(
            "postgres_refuses" if found.refused else "postgres_away",
            f"Postgres cannot be used: {found.error}",
            "Correct that; what traders send waits in Redis meanwhile"
            if found.refused
            else "Look whether it runs and can be reached; what traders send waits in Redis meanwhile",
        )
    if found.read_only:
        yield Problem("postgres_read_only", *_split(found.read_only))
    if found.missing_tables and found.applied:
        yield Problem(
            "tables_missing",
            f"Postgres lacks the table{_s(found.missing_tables)} {_listed(found.missing_tables)}, though the "
            "migrations that make them are applied",
            "Restore what was dropped: from a backup, or with the statements in db/schema.sql",
        )
    elif found.pending or found.missing_tables:
        number = f"{len(found.pending)} migration{_s(found.pending)}" if found.pending else "the migrations"
        yield Problem("migrations_pending", f"Postgres lacks {number}", "Run: riskstream migrate up")
    if found.missing_grants:
        yield Problem(
            "grants_missing",
            "The role of this connection may not do in Postgres all that a worker has to do",
            "; ".join(found.missing_grants),
        )
    if found.only_reads:
        yield Problem(
            "role_only_reads",
            "Whether workers may write into Postgres is not known: the role of this connection only reads",
            "riskstream doctor, with the environment of a worker",
            serious=False,
        )
    if found.unknown:
        yield Problem(
            "postgres_newer",
            f"Postgres has {len(found.unknown)} migration{_s(found.unknown)} that this version of riskstream "
            f"does not know ({_listed(found.unknown)})",
            "Use the newer version here, too",
            serious=False,
        )


def other_database(status: Status) -> Iterator[Problem]:
    """The streams are stored in another database than the one that is asked."""
    if status.other_database:
        yield Problem("other_database", *_split(status.other_database))


def suspended(status: Status) -> Iterator[Problem]:
    """RQ's workers are suspended."""
    if status.queue.suspended:
        yield Problem(
            "workers_suspended",
            "RQ's workers are suspended, so they take no share of the partitions",
            "rq resume lets them go on",
        )


def no_worker(status: Status) -> Iterator[Problem]:
    """There is no worker that is alive, and nothing else explains why."""
    if status.workers is None or _alive(status):
        return
    if _redis_hinders(status) or status.postgres.hinders or status.other_database or _is_empty(status):
        return
    waiting = _waiting(status.partitions or ())
    lost = [_last_seen(each) for each in status.workers if each.pid][:3]
    yield Problem(
        "no_worker",
        "No worker is running" + waiting + (f": {'; '.join(lost)}" if lost else ""),
        _START
        + (
            ", or let the one that is frozen go on"
            if any(each.state == "silent" for each in status.workers)
            else ""
        ),
    )


def silent_workers(status: Status) -> Iterator[Problem]:
    """Some workers are not heard of; the others have taken their share over."""
    silent = [each for each in status.workers or () if each.state == "silent" and each.pid]
    if silent and _alive(status):
        yield Problem(
            "worker_silent",
            "; ".join(_last_seen(each) for each in silent[:3]) + ". The other workers have taken its share",
            "End that process where it still runs, and start another one",
            serious=False,
        )


def cannot_store(status: Status) -> Iterator[Problem]:
    """Postgres answers, and takes nothing from a worker: its disk is full, a trigger refuses."""
    found = [each for each in _alive(status) if each.cannot_store]
    if found and not status.postgres.hinders and not status.other_database:
        others = f"; {len(found) - 1} more cannot, either" if found[1:] else ""
        yield Problem(
            "cannot_store",
            f"The worker {found[0].where} cannot store: {found[0].cannot_store}{others}",
            "Correct that in Postgres; what traders send waits in Redis meanwhile, and workers try again",
        )


def commit_waits(status: Status) -> Iterator[Problem]:
    """A worker waits for a COMMIT."""
    waits = [each for each in _alive(status) if each.commit_wait_s >= COMMIT_WAIT_S and not each.cannot_store]
    if waits and not status.postgres.hinders and not status.other_database:
        longest = max(waits, key=lambda each: each.commit_wait_s)
        yield Problem(
            "commit_waits",
            f"The worker {longest.where} has waited for a COMMIT for {duration(longest.commit_wait_s)}",
            "Its log names what Postgres waits for: a lock and who holds it, or a synchronous standby",
        )


def streams(status: Status) -> Iterator[Problem]:
    """Partitions that cannot be read, are not drained, or are nearly full."""
    found = status.partitions or ()
    for each in found:
        if each.error and not each.away:
            yield Problem(
                "stream_unreadable", each.error, "Look at that key; riskstream repair puts it aside"
            )
    stalled = [
        each
        for each in found
        if not each.error and (each.stalled_s or 0.0) >= BOUND_S and not _is_named(each.worker)
    ]
    if stalled and _alive(status) and not _explained(status):
        longest = max(each.stalled_s or 0.0 for each in stalled)
        waits = sum(each.in_flight for each in stalled)
        yield Problem(
            "partition_stalled",
            f"P{_listed_partitions(status, [each.partition for each in stalled])[1:]} "
            f"{'has' if len(stalled) == 1 else 'have'} not been drained for {duration(longest)} "
            f"({_snapshots(waits)})",
            "The worker's log says what hinders it",
        )
    full = [each for each in found if each.filled >= FILLED]
    if full:
        most = max(full, key=lambda each: each.filled)
        yield Problem(
            "stream_full" if most.filled >= 1 else "stream_nearly_full",
            f"The stream of partition {most.shown} holds {most.in_flight:,} of {most.cap:,} entries "
            f"({most.filled:.0%})"
            + (f", and those of {len(full) - 1} others are nearly full, too" if len(full) > 1 else "")
            + ("; its traders have to wait" if most.filled >= 1 else ""),
            "Let workers store what waits: is one running, can it store? More room: RISK_STREAM_MAXLEN of "
            "the traders, and Redis' maxmemory",
        )


def lost_data(status: Status) -> Iterator[Problem]:
    """Redis is empty, or was, and what that means."""
    if status.behind:
        yield Problem(
            "states_behind",
            f"Redis has lost data, and which snapshot of {status.behind:,} traders is the newest is not "
            "certain",
            "riskstream verify names them; riskstream repair TRADER decides for the state in Postgres",
        )
    if status.restored and status.restored.ago_s < RESTORED_S:
        yield Problem(
            "redis_lost_data",
            f"Redis is new, or came back without its data, {duration(status.restored.ago_s)} ago"
            + (
                f"; workers restored {status.restored.traders:,} traders from Postgres"
                if status.restored.traders
                else ""
            ),
            "riskstream verify names what was lost; look why Redis did (its append-only file, its disk)",
        )
    elif _is_empty(status):
        yield Problem(
            "redis_empty",
            f"Redis holds nothing of this deployment, and Postgres knows {status.traders.stored:,} "
            "traders: Redis came back without its data, or REDIS_URL or RISK_NAMESPACE names another one",
            "A worker restores what Postgres knows within seconds. Where none runs: riskstream worker",
        )


def dead_letters(status: Status) -> Iterator[Problem]:
    """What could not be stored waits for a decision."""
    found = status.dead_letters
    if found is not None and found.count:
        newest = f"; the newest, {duration(found.newest_s or 0.0)} ago: {found.newest_reason}"
        yield Problem(
            "dead_letters",
            f"{'More than ' if found.more else ''}{found.count:,} "
            f"dead letter{' waits' if found.count == 1 else 's wait'} for a decision{newest}",
            "riskstream dead list; then retry once the reason is gone, or drop",
        )


def partitions_differ(status: Status) -> Iterator[Problem]:
    """RISK_PARTITIONS here is not what is agreed on, which counts."""
    agreed = status.partitions_agreed
    if agreed is not None and agreed != status.partitions_here:
        yield Problem(
            "partitions_differ",
            f"RISK_PARTITIONS is {status.partitions_here} here, and the deployment has {agreed} partitions, "
            "which is what counts",
            "Correct the environment, or change the deployment: riskstream partitions",
            serious=False,
        )


FINDERS: Final[Sequence[Callable[[Status], Iterator[Problem]]]] = (
    redis_away,
    redis_refuses_writes,
    queue_away,
    postgres,
    other_database,
    suspended,
    no_worker,
    cannot_store,
    commit_waits,
    streams,
    lost_data,
    redis_memory,
    dead_letters,
    silent_workers,
    partitions_differ,
)
"""In the order in which they are shown."""


def _alive(status: Status) -> list[WorkerStatus]:
    return [each for each in status.workers or () if each.state == "alive"]


def _redis_hinders(status: Status) -> bool:
    """Whether Redis is why workers cannot be seen."""
    refusals = [each.refusal for each in status.redis.servers if each.refusal]
    return bool(status.redis.error or any(FORBIDDEN not in each for each in refusals))


def _is_empty(status: Status) -> bool:
    """Whether Redis holds nothing of what Postgres knows; what workers wrote there is gone too."""
    return bool(status.traders.stored and status.partitions is not None and status.partitions_agreed is None)


def _explained(status: Status) -> bool:
    """Whether it is known already why nothing is drained."""
    return bool(status.postgres.hinders or status.other_database or status.queue.suspended)


def _is_named(worker: WorkerStatus | None) -> bool:
    """Whether a line says already what hinders this worker."""
    return worker is not None and bool(worker.cannot_store or worker.commit_wait_s >= COMMIT_WAIT_S)


def _last_seen(worker: WorkerStatus) -> str:
    if worker.state == "gone":
        return f"the process {worker.pid} on {worker.host} has ended"
    heard = "" if worker.heard_s is None else f" for {duration(worker.heard_s)}"
    return f"the worker {worker.where} has not been heard of{heard}"


def _waiting(partitions: Sequence[PartitionStatus]) -> str:
    waits = sum(each.in_flight for each in partitions)
    return f", and {_snapshots(waits)}" if waits else ""


def _snapshots(number: int) -> str:
    return f"{number:,} {'snapshot waits' if number == 1 else 'snapshots wait'}"


def _listed_partitions(status: Status, numbers: Sequence[int]) -> str:
    keyspace = Keyspace(status.namespace)
    return f"partition{_s(numbers)} {_listed([keyspace.name(each) for each in numbers])}"


def _listed(names: Sequence[str]) -> str:
    """A few of them, for a sentence."""
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _s(many: Sequence[object]) -> str:
    return "" if len(many) == 1 else "s"


def _split(sentence: str) -> tuple[str, str]:
    """(what is wrong, what to do), of a text whose last sentence says what to do."""
    what, found, todo = sentence.rpartition(". ")
    return (what, todo) if found and ")" not in todo else (sentence, "")
