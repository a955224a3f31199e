"""The workers, as RQ keeps them in Redis: which there are and which are alive, read without RQ."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.transport.connect import RedisClient

QUEUE: Final = "risk-drain"
"""The RQ queue of the drain jobs."""
LEASE_S: Final = 12
"""A worker that has not been heard of for so long has lost its share to the others."""
RUNS_FIELD: Final = "runs"
RUNS_SHARES: Final = "shares"
"""A field of a worker's hash, and its value where the worker drains shares; versions before had none."""
COMMIT_WAIT_FIELD: Final = "commit_wait_s"
"""Of a worker's hash: for how many seconds it has waited for a COMMIT; only while that is long."""


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker on RQ's list. What cannot be read of it is None or 0."""

    key: bytes
    heartbeat: bytes | None
    drains_shares: bool = False
    commit_wait_s: float = 0.0

    def silent_s(self, now: datetime) -> float:
        """Seconds since its last heartbeat, by its own clock; infinite where that cannot be read."""
        return age_s(self.heartbeat, now)


def registered_workers(client: RedisClient, keyspace: Keyspace = NO_NAMESPACE) -> list[RegisteredWorker]:
    """The workers on RQ's list, dead ones included. Raises one of REDIS_ERRORS."""
    try:
        keys: Any = list(client.smembers(f"{keyspace.rq_prefix}:workers:{QUEUE}"))
    except ResponseError:
        return []
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, "last_heartbeat", RUNS_FIELD, COMMIT_WAIT_FIELD)
    answers = pipeline.execute(raise_on_error=False)
    return [_registered(key, answer) for key, answer in zip(keys, answers, strict=True)]


def _registered(key: bytes, answer: Any) -> RegisteredWorker:
    if isinstance(answer, Exception):
        return RegisteredWorker(key, None)
    heartbeat, runs, commit_wait_s = answer
    return RegisteredWorker(key, heartbeat, runs == RUNS_SHARES.encode(), _seconds(commit_wait_s))


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
        return len(self.keys(client))

    def keys(self, client: RedisClient) -> set[bytes]:
        """The keys of those that are alive now. Raises one of REDIS_ERRORS."""
        workers = [each for each in registered_workers(client, self._keyspace) if each.drains_shares]
        utc, now = datetime.now(UTC), self._clock()
        with self._lock:
            self._seen = {each.key: self._since(each, utc, now) for each in workers}
            return {key for key, (_, since) in self._seen.items() if now - since < self._lease_s}

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
