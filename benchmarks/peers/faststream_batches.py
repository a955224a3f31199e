"""A consumer of batches with FastStream: `python -m benchmarks.peers.faststream_batches`.

Acknowledged after the transaction. A second subscriber claims what a consumer that died has left, which
FastStream does one message at a time; where that is forgotten, those messages are never looked at again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

from faststream import FastStream
from faststream.redis import BinaryMessageFormatV1, RedisBroker, StreamSub
from psycopg_pool import AsyncConnectionPool
from redis import Redis, ResponseError

from benchmarks import inserts
from benchmarks.peers.settings import BATCH, RECOVER_AFTER_S

STREAM: Final = "snapshots"
GROUP: Final = "risk"


def send(redis_url: str, payloads: Sequence[bytes]) -> None:
    """As FastStream's publisher does, 500 a round trip. It would not see what came before its group."""
    client = Redis.from_url(redis_url)
    with suppress(ResponseError):
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    envelope = asyncio.run(
        BinaryMessageFormatV1.encode(
            message=b"",
            reply_to=None,
            headers={"content-type": "application/json"},
            correlation_id=str(uuid4()),
        )
    )
    for first in range(0, len(payloads), 500):
        pipeline = client.pipeline(transaction=False)
        for payload in payloads[first : first + 500]:
            pipeline.xadd(STREAM, {b"__data__": envelope + payload})
        pipeline.execute()


async def main() -> None:
    """Consume until the end of the process."""
    broker = RedisBroker(os.environ["REDIS_URL"], logger=None)
    pool = AsyncConnectionPool(
        os.environ["POSTGRES_URL"],
        min_size=2,
        max_size=2,
        kwargs={"autocommit": True},
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    async with pool:

        async def store(snapshots: list[inserts.Row]) -> None:
            async with pool.connection() as db:
                await inserts.store_async(db, snapshots)

        new = StreamSub(STREAM, group=GROUP, consumer=str(uuid4()), batch=True, max_records=BATCH)
        left = StreamSub(
            STREAM,
            group=GROUP,
            consumer="claims",
            batch=True,
            min_idle_time=RECOVER_AFTER_S * 1000,
        )
        for stream in (new, left):
            broker.subscriber(stream=stream)(store)
        await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    asyncio.run(main())
