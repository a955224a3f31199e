"""What tests ask of Redis, and put there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast, overload

import redis

from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import WireSnapshot, decode
from risk_producer.errors import StreamUnavailable
from risk_producer.transport.requests import Admission, Admit, Claim, TraderStream, Unreadable


def mark_restored(client: redis.Redis) -> None:
    """As a worker does that has compared partition 0 with Postgres."""
    server: Any = {}
    with contextlib.suppress(redis.RedisError):
        server = client.info("server")
    client.hset(Keys(0).floors, "", server.get("run_id", "any"))


def stream_of(client: redis.Redis, partition: int = 0) -> list[WireSnapshot]:
    """What is in a partition's stream, the oldest first."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(Keys(partition).snapshots))
    return [decode(fields[b"s"]) for _, fields in entries]


@overload
def ask_one(stream: TraderStream, request: Claim) -> Sequence[int | Unreadable]: ...
@overload
def ask_one(stream: TraderStream, request: Admit) -> Admission: ...
def ask_one(stream: TraderStream, request: Claim | Admit) -> Any:
    """The reply to one request. Raises StreamUnavailable where there is none."""
    [reply] = stream.ask([request])
    if isinstance(reply, StreamUnavailable):
        raise reply
    return reply


def drains(client: Any) -> bool:
    """Whether a worker has begun the drain job of partition 0."""
    return bool(client.hget("rq:job:drain-0", "status") == b"started")
