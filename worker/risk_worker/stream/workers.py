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

from risk_producer.transport.connect import RedisClient

QUEUE: Final = "risk-drain"
"""The RQ queue of the drain jobs."""
WORKERS_KEY: Final = f"rq:workers:{QUEUE}"
COUNTERS_KEY: Final = "risk:drain-jobs"
"""Hash: how many drain jobs were re-enqueued, and how many tries to do so failed."""
LEASE_S: Final = 12
"""A worker that has not been heard of for so long has lost its share to the others."""
COMMIT_WAIT_FIELD: Final = "commit_wait_s"
"""Of a worker's hash: for how many seconds it has waited for a COMMIT; only while that is long."""


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker on RQ's list. What cannot be read of it is None or 0."""

    key: bytes
    heartbeat: bytes | None
    commit_wait_s: float = 0.0

    def silent_s(self, now: datetime) -> float:
        """Seconds since its last heartbeat, by its own clock; infinite where that cannot be read."""
        return age_s(self.heartbeat, now)


def registered_workers(client: RedisClient) -> list[RegisteredWorker]:
    """The workers on RQ's list, dead ones included. Raises redis.RedisError."""
    try:
        keys: Any = list(client.smembers(WORKERS_KEY))
    except ResponseError:
        return []
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, "last_heartbeat", COMMIT_WAIT_FIELD)
    answers = pipeline.execute(raise_on_error=False)
    return [
        RegisteredWorker(key, None)
        if isinstance(of, Exception)
        else RegisteredWorker(key, of[0], _seconds(of[1]))
        for key, of in zip(keys, answers, strict=True)
    ]


class LiveWorkers:
    """Counts the workers that are alive: they are on RQ's list, and their heartbeat changes.

    Only the first sight of a worker depends on its clock; from then on the clock of this process decides.
    Thread-safe.
    """

    def __init__(self, *, lease_s: float = LEASE_S, clock: Callable[[], float] = monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[bytes, tuple[bytes | None, float]] = {}  # key -> heartbeat, since when it is that

    def count(self, client: RedisClient) -> int:
        """How many are alive now. Raises redis.RedisError."""
        workers = registered_workers(client)
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
