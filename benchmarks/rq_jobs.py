"""Yardstick: RQ as it is often used, a job and a transaction for each snapshot.

Kind to it: one connection for all jobs, and a SimpleWorker, which does not fork for each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from typing import Final

import psycopg
from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks import inserts
from benchmarks.process import serve

_QUEUE: Final = "snapshots"


def fill(client: Redis, payloads: Iterable[bytes]) -> None:
    """Put a job for each payload on the queue."""
    queue = Queue(_QUEUE, connection=client)
    queue.enqueue_many([Queue.prepare_data(store, (payload,), result_ttl=0) for payload in payloads])


def store(payload: bytes) -> None:
    """The job."""
    row = json.loads(payload)
    with _connection().transaction():
        _connection().execute(inserts.HISTORY, row)
        _connection().execute(inserts.STATE, row)


@cache
def _connection() -> psycopg.Connection:
    return psycopg.connect(os.environ["POSTGRES_URL"], autocommit=True)


def main() -> None:
    """Obey until stdin ends."""
    client = Redis.from_url(os.environ["REDIS_URL"])

    def work(rows: int) -> int:
        queue = Queue(_QUEUE, connection=client)
        SimpleWorker([queue], connection=client).work(burst=True, logging_level="WARNING")
        return rows - len(queue.failed_job_registry)

    serve(work)


if __name__ == "__main__":
    main()
