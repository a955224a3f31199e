"""Reads whole keys of the streams' side of Redis, a page at a time, while others write to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import ask_each
from risk_worker.stream.partitions import look_at_all

PAGE: Final = 1_000
"""Entries, fields or keys per request."""
NUMBER_LIMIT: Final = 2**53
"""Numbers in Redis are below it: Lua's do not distinguish whole numbers from there on."""


def entries(client: RedisClient, stream: str) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
    """(id, fields) of each entry that the stream has by now. Raises one of REDIS_ERRORS."""
    newest = cast(list[Any], client.xrevrange(stream, count=1))
    if not newest:
        return
    after, end = "-", newest[0][0].decode()  # producers may add entries faster than this reads them
    while True:
        page = cast(list[Any], client.xrange(stream, min=after, max=end, count=PAGE))
        yield from page
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def fields(client: RedisClient, key: str) -> Iterator[tuple[bytes, bytes]]:
    """(field, value) of a hash. Raises one of REDIS_ERRORS."""
    yield from cast(Iterator[tuple[bytes, bytes]], client.hscan_iter(key, count=PAGE))


def hashes(client: RedisClient, keys: Sequence[str]) -> dict[str, dict[bytes, bytes] | Exception]:
    """What many hashes hold by now, each a page at a time, in round trips for all of them together.

    An error of a key is its answer. Raises one of REDIS_ERRORS where no server answers.
    """
    found: dict[str, dict[bytes, bytes] | Exception] = {key: {} for key in keys}
    cursors = dict.fromkeys(keys, 0)
    while cursors:
        size = max(1 + PAGE // 20, 4 * PAGE // len(cursors))
        answers = ask_each(client, [(key, ("HSCAN", key, at, "COUNT", size)) for key, at in cursors.items()])
        left: dict[str, int] = {}
        for key, answer in zip(cursors, answers, strict=True):
            held = found[key]
            if isinstance(answer, Exception):
                found[key] = answer
            elif isinstance(held, dict):
                cursor, page = answer
                held.update(page)
                if cursor:
                    left[key] = cursor
        cursors = left
    return found


def admitted_seqs(
    client: RedisClient, partitions: Sequence[Keys], epochs: Sequence[tuple[str, int]]
) -> list[int | None]:
    """The last seq that Redis admitted by now of each (trader_id, epoch).

    0: it is unknown. None: what Redis holds is no such number. Raises one of REDIS_ERRORS.
    """
    names = [f"{epoch}:{trader_id}" for trader_id, epoch in epochs]
    found: dict[tuple[str, int], int | None] = {}
    for keys in partitions:
        for first in range(0, len(names), PAGE):
            page = names[first : first + PAGE]
            try:
                values = cast(list[bytes | None], client.hmget(keys.admitted, page))
            except ResponseError:
                return [None] * len(epochs)  # the key has another type
            for key, value in zip(epochs[first:], values, strict=False):
                if value is not None:
                    number, known = whole_number(value), found.get(key, 0)
                    found[key] = None if number is None or known is None else max(number, known)
    return [found.get(key, 0) for key in epochs]


def partitions_in_use(client: RedisClient, partitions: int, keyspace: Keyspace = NO_NAMESPACE) -> list[Keys]:
    """The keys of all partitions that are agreed on, or hold or held snapshots, and of those between.

    Raises one of REDIS_ERRORS.
    """
    return [keyspace.keys(number) for number in look_at_all(client, keyspace, partitions).numbers]


def wrong_type(client: RedisClient, key: str, wanted: str, error: ResponseError) -> str:
    """The sentence for a key of another type than wanted; any other error is raised again."""
    if not str(error).startswith("WRONGTYPE"):
        raise error
    found = client.type(key)
    kind = found.decode() if isinstance(found, bytes) else str(found)
    return f"{key} holds a {kind} where a {wanted} is expected; riskstream repair puts it aside"


def whole_number(value: bytes) -> int | None:
    """A whole number of those that Redis may hold; None: it is none."""
    if not value.isdigit() or len(value) > 16:
        return None
    number = int(value)
    return number if number < NUMBER_LIMIT else None


def printable(value: bytes) -> str:
    """For a message: printable, and at most 200 bytes of it."""
    text = value[:200].decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
