"""RQ as it is often used, a job and a transaction for each snapshot: `rq worker` with SimpleWorker.

Kind to it: one connection for all jobs, and no fork for each. A job whose worker died is tried again a minute
after its timeout, when a worker looks at the registries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from typing import Final

from psycopg_pool import ConnectionPool
from redis import Redis
from rq import Queue, Retry

from benchmarks import inserts
from benchmarks.peers.settings import RECOVER_AFTER_S, one_connection

QUEUE: Final = "snapshots"


def send(redis_url: str, payloads: Sequence[bytes]) -> None:
    """Put a job for each payload on the queue."""
    queue = Queue(QUEUE, connection=Redis.from_url(redis_url))
    queue.enqueue_many(
        [
            Queue.prepare_data(store, (payload,), result_ttl=0, retry=Retry(max=3), timeout=RECOVER_AFTER_S)
            for payload in payloads
        ]
    )


def store(payload: bytes) -> None:
    """The job."""
    with _pool().connection() as db:
        inserts.store(db, [json.loads(payload)])


@cache
def _pool() -> ConnectionPool:
    return one_connection(os.environ["POSTGRES_URL"])
