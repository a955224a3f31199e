"""Yardstick: a consumer of batches as one would write it by hand, with FastStream and executemany().

Kind to it: what it stores twice or loses when it is killed is not looked at, and what it has acknowledged
stays in the stream.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from typing import Final
from uuid import uuid4

import psycopg

from benchmarks import inserts
from benchmarks.process import serve

STREAM: Final = "snapshots"
FIELD: Final = b"__data__"
BATCH: Final = 500


def installed() -> bool:
    """Whether FastStream is there."""
    return importlib.util.find_spec("faststream") is not None


def envelope() -> bytes:
    """What FastStream's publisher puts before a payload of JSON."""
    from faststream.redis import BinaryMessageFormatV1

    message: bytes = asyncio.run(
        BinaryMessageFormatV1.encode(
            message=b"",
            reply_to=None,
            headers={"content-type": "application/json"},
            correlation_id=str(uuid4()),
        )
    )
    return message


async def consume(rows: int) -> int:
    """Store the stream from its beginning until there were so many rows."""
    from faststream.redis import RedisBroker, StreamSub

    stored = 0
    over = asyncio.Event()
    broker = RedisBroker(os.environ["REDIS_URL"], logger=None)
    async with await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True) as db:

        async def store(snapshots: list[inserts.Row]) -> None:
            nonlocal stored
            newest = {row["trader_id"]: row for row in snapshots}
            async with db.transaction(), db.cursor() as cursor:
                await cursor.executemany(inserts.HISTORY, snapshots)
                await cursor.executemany(inserts.STATE, list(newest.values()))
            stored += len(snapshots)
            if stored >= rows:
                over.set()

        stream = StreamSub(
            STREAM, group=f"group-{uuid4()}", consumer="one", batch=True, max_records=BATCH, last_id="0"
        )
        broker.subscriber(stream=stream)(store)
        async with broker:
            await broker.start()
            await over.wait()
    return stored


if __name__ == "__main__":
    serve(lambda rows: asyncio.run(consume(rows)))
