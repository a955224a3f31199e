"""taskiq on a Redis stream, a task for a snapshot or for a batch: `taskiq worker …taskiq_tasks:broker`.

Acknowledged when the task is over: also where it ended with an error, unless a middleware sends it again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

from psycopg_pool import AsyncConnectionPool
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from benchmarks import inserts
from benchmarks.peers.settings import BATCH, RECOVER_AFTER_S

CONNECTIONS = 10
"""To Postgres, of a worker that runs up to 100 tasks at a time."""


def _broker(redis_url: str) -> RedisStreamBroker:
    return RedisStreamBroker(
        redis_url,
        consumer_id="0",
        idle_timeout=RECOVER_AFTER_S * 1000,
        unacknowledged_batch_size=BATCH,
        unacknowledged_lock_timeout=RECOVER_AFTER_S,
    )


broker = _broker(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    """To Postgres."""
    state.pool = AsyncConnectionPool(
        os.environ["POSTGRES_URL"],
        min_size=CONNECTIONS,
        kwargs={"autocommit": True},
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    await state.pool.open(wait=True)


@broker.task
async def store(row: dict[str, Any]) -> None:
    """A snapshot."""
    await store_batch([row])


@broker.task
async def store_batch(rows: list[dict[str, Any]]) -> None:
    """What the sender has gathered."""
    async with broker.state.pool.connection() as db:
        await inserts.store_async(db, rows)


def send(redis_url: str, payloads: Sequence[bytes]) -> None:
    """A task for each snapshot."""
    asyncio.run(_send(redis_url, store, [json.loads(payload) for payload in payloads]))


def send_batches(redis_url: str, payloads: Sequence[bytes]) -> None:
    """A task for so many."""
    rows = [json.loads(payload) for payload in payloads]
    batches = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    asyncio.run(_send(redis_url, store_batch, batches))


async def _send(redis_url: str, task: Any, arguments: Sequence[Any]) -> None:
    sender = _broker(redis_url)
    await sender.startup()
    for argument in arguments:
        await task.kicker().with_broker(sender).kiq(argument)
    await sender.shutdown()
