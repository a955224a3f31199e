"""Batches with celery-batches, of tasks with a snapshot each: `celery -A benchmarks.peers.celery_batches …`.

Acknowledged late, when the task is over: also where it ended with an error, which celery-batches only logs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache

from celery import Celery
from celery_batches import Batches, SimpleRequest
from psycopg_pool import ConnectionPool

from benchmarks import inserts
from benchmarks.peers.settings import BATCH, LINGER_S, RECOVER_AFTER_S, one_connection

app = Celery("benchmarks.peers.celery_batches", broker=os.environ.get("REDIS_URL"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=2 * BATCH,  # the next batch comes while one is stored
    broker_transport_options={
        "visibility_timeout": RECOVER_AFTER_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)


@app.task(base=Batches, flush_every=BATCH, flush_interval=LINGER_S)  # type: ignore[untyped-decorator]
def store(requests: Sequence[SimpleRequest]) -> None:
    """A batch."""
    with _pool().connection() as db:
        inserts.store(db, [request.args[0] for request in requests])


def send(redis_url: str, payloads: Sequence[bytes]) -> None:
    """As a trader would, over one connection."""
    with app.connection_for_write(redis_url) as connection, app.amqp.Producer(connection) as producer:
        for payload in payloads:
            store.apply_async((json.loads(payload),), producer=producer)


@cache
def _pool() -> ConnectionPool:
    return one_connection(os.environ["POSTGRES_URL"])
