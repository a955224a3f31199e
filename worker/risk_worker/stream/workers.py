"""The workers, as RQ keeps them in Redis: how many there are, read without RQ."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final

from redis.exceptions import ResponseError

from risk_producer.transport.connect import RedisClient

QUEUE: Final = "risk-drain"
"""The RQ queue of the drain jobs."""
WORKERS_KEY: Final = f"rq:workers:{QUEUE}"
COUNTERS_KEY: Final = "risk:drain-jobs"
"""Hash: how many drain jobs were re-enqueued, and how many tries to do so failed."""
LEASE_S: Final = 15
"""A worker that has not been heard of for so long has lost its jobs to others."""


def workers_alive(client: RedisClient) -> int:
    """How many workers were heard of within their lease. Raises redis.RedisError."""
    pipeline = client.pipeline(transaction=False)
    try:
        keys: Any = client.smembers(WORKERS_KEY)
    except ResponseError:
        return 0
    for key in keys:
        pipeline.hget(key, "last_heartbeat")
    now = datetime.now(UTC)
    return sum(age_s(raw, now) <= LEASE_S for raw in pipeline.execute(raise_on_error=False))


def age_s(heartbeat: Any, now: datetime) -> float:
    """Seconds since a worker's last_heartbeat; infinite where there is none, or it cannot be read."""
    try:
        return (now - datetime.fromisoformat(heartbeat.decode())).total_seconds()
    except (AttributeError, ValueError, TypeError):
        return math.inf
