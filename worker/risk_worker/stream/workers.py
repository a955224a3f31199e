"""The workers, as RQ keeps them in Redis: which there are and which are alive, read without RQ."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.transport.connect import RedisClient
from risk_worker.stream.counters import text

QUEUE: Final = "risk-drain"
"""The RQ queue of the drain jobs."""
LEASE_S: Final = 12
"""A worker that has not been heard of for so long has lost its share to the others."""
RUNS_FIELD: Final = "runs"
RUNS_SHARES: Final = "shares"
"""A field of a worker's hash, and its value where the worker drains shares; versions before had none."""
COMMIT_WAIT_FIELD: Final = "commit_wait_s"
"""Of a worker's hash: for how many seconds it has waited for a COMMIT; only while that is long."""
CANNOT_STORE_FIELD: Final = "cannot_store"
"""Of a worker's hash: why the database takes nothing from it, as its log has it; only while that is so."""
PROCESS_HOST_FIELD: Final = "process_host"
REASON_MAX: Final = 300
"""Characters of a reason that are kept."""
KEPT_S: Final = 78
"""For how long Redis keeps a worker's registration after each heartbeat, whatever the worker does."""


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker on RQ's list. What cannot be read of it is None, empty or 0."""

    key: bytes
    heartbeat: bytes | None
    drains_shares: bool = False
    commit_wait_s: float = 0.0
    host: str = ""
    """The name of its machine, or container."""
    pid: int = 0
    process_host: str = ""
    """See process_host()."""
    born: datetime | None = None
    """When it registered, by its own clock."""
    job: str = ""
    """The drain job that it is at; empty between two of them."""
    heard_s: float = math.inf
    """Seconds since its last heartbeat, by Redis' clock alone (how long it is kept)."""
    cannot_store: str = ""
    """Why the database takes nothing from it: a sentence. Empty: it does, or the worker is at no job."""

    def silent_s(self, now: datetime) -> float:
        """Seconds since its last heartbeat, by its own clock; infinite where that cannot be read."""
        return age_s(self.heartbeat, now)

    @property
    def where(self) -> str:
        """For a person: its host and its process."""
        return f"{self.host or 'an unknown host'} {self.pid or '?'}"

    @property
    def is_gone(self) -> bool:
        """Whether its process was on this host and runs no more."""
        return bool(self.pid) and self.process_host == process_host() and not runs(self.pid)

    @property
    def is_alive(self) -> bool:
        """Whether it was heard of within the lease, and its process is not known to be gone."""
        return self.heard_s < LEASE_S and not self.is_gone


_READ: Final = ("last_heartbeat", RUNS_FIELD, COMMIT_WAIT_FIELD, "hostname", "pid", PROCESS_HOST_FIELD)
_READ_TOO: Final = ("birth", CANNOT_STORE_FIELD)


def registered_workers(client: RedisClient, keyspace: Keyspace = NO_NAMESPACE) -> list[RegisteredWorker]:
    """The workers on RQ's list, dead ones included. Raises one of REDIS_ERRORS."""
    try:
        keys: Any = list(client.smembers(f"{keyspace.rq_prefix}:workers:{QUEUE}"))
    except ResponseError:
        return []
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, *_READ, *_READ_TOO)
        pipeline.pttl(key)
        pipeline.smembers(key + b":executions")
    answers = pipeline.execute(raise_on_error=False)
    return [
        _registered(key, *of_worker)
        for key, *of_worker in zip(keys, answers[0::3], answers[1::3], answers[2::3], strict=True)
    ]


def shares_at_work(
    client: RedisClient, workers: Sequence[RegisteredWorker], keyspace: Keyspace = NO_NAMESPACE
) -> dict[bytes, tuple[int, int]]:
    """worker's key -> (share, shares) of the drain job that it is at. Raises one of REDIS_ERRORS."""
    busy = [each for each in workers if each.job]
    pipeline = client.pipeline(transaction=False)
    for each in busy:
        pipeline.hget(f"{keyspace.rq_prefix}:job:{each.job}", "data")
    answers = pipeline.execute(raise_on_error=False) if busy else []
    shares = {each.key: _share(answer) for each, answer in zip(busy, answers, strict=True)}
    return {key: share for key, share in shares.items() if share is not None}


def _registered(key: bytes, fields: Any, kept_ms: Any, executions: Any) -> RegisteredWorker:
    """executions: "job:execution" of what it is at; RQ itself keeps no current_job any more."""
    if isinstance(fields, Exception):
        return RegisteredWorker(key, None)
    heartbeat, runs_what, commit_wait_s, host, pid, its_process_host, birth, cannot_store = fields
    jobs = [] if isinstance(executions, Exception) else sorted(executions)
    job = jobs[-1].rpartition(b":")[0] if jobs else b""
    kept_s = kept_ms / 1000 if isinstance(kept_ms, int) else -1.0
    return RegisteredWorker(
        key,
        heartbeat,
        runs_what == RUNS_SHARES.encode(),
        _seconds(commit_wait_s),
        text(host or b"")[:100],
        int(_seconds(pid)),
        text(its_process_host or b""),
        _moment(birth),
        text(job)[:100],
        max(0.0, KEPT_S - kept_s) if kept_s >= 0 else age_s(heartbeat, datetime.now(UTC)),
        " ".join(text(cannot_store or b"").split())[:REASON_MAX] if job else "",
    )


def _share(data: Any) -> tuple[int, int] | None:
    """(share, shares) in what RQ keeps of a drain job; None: it cannot be read, or is another job."""
    try:
        _, _, (share, shares, *_), _ = json.loads(zlib.decompress(data))
    except (TypeError, ValueError, zlib.error):
        return None
    right = isinstance(share, int) and isinstance(shares, int) and 0 <= share < shares
    return (share, shares) if right else None


def _moment(raw: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(raw.decode())
    except (AttributeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@cache
def process_host() -> str:
    """Where a pid means something: host, boot and pid namespace. Two containers may share a host name."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if boot.exists():
        parts.append(boot.read_text().strip())
    if namespace.exists():
        parts.append(str(namespace.stat().st_ino))
    return "/".join(parts)


def runs(pid: int) -> bool:
    """Whether there is such a process on this host."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


class LiveWorkers:
    """Counts the workers that drain shares and are alive: they are on RQ's list, and their heartbeat changes.

    Only the first sight of a worker depends on its clock; from then on the clock of this process decides.
    Thread-safe.
    """

    def __init__(
        self,
        keyspace: Keyspace = NO_NAMESPACE,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keyspace = keyspace
        self._lease_s = lease_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[bytes, tuple[bytes | None, float]] = {}  # key -> heartbeat, since when it is that

    def count(self, client: RedisClient) -> int:
        """How many are alive now. Raises one of REDIS_ERRORS."""
        workers = [each for each in registered_workers(client, self._keyspace) if each.drains_shares]
        utc, now = datetime.now(UTC), self._clock()
        with self._lock:
            self._seen = {each.key: self._since(each, utc, now) for each in workers}
            return sum(now - since < self._lease_s for _, since in self._seen.values())

    def _since(self, worker: RegisteredWorker, utc: datetime, now: float) -> tuple[bytes | None, float]:
        if worker.key not in self._seen:
            return worker.heartbeat, now - max(0.0, worker.silent_s(utc))
        heartbeat, since = self._seen[worker.key]
        return worker.heartbeat, since if worker.heartbeat == heartbeat else now


def age_s(heartbeat: Any, now: datetime) -> float:
    """Seconds since a worker's last_heartbeat; infinite where there is none, or it cannot be read."""
    try:
        return (now - datetime.fromisoformat(heartbeat.decode())).total_seconds()
    except (AttributeError, ValueError, TypeError):
        return math.inf


def _seconds(raw: Any) -> float:
    try:
        value = float(raw)
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) else 0.0
