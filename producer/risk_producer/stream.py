"""The trader's side of Redis: claim epochs, admit a batch, read the newest admitted snapshot.

What is asked of Redis is a value (Claim, Admit), so that the threaded and the asyncio producer ask the same.
Every trouble that Redis can have, from a refused connection to "OOM command not allowed", comes out as
StreamUnavailable with a reason a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, cast

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from risk_producer.errors import StreamUnavailable
from risk_producer.keys import Keys

ANSWER_TIMEOUT_S: Final = 2.0
"""How long to wait for an answer of Redis, and for a connection."""

BATCH_MAX: Final = 500
"""Entries in one call; Lua's unpack() could take some thousands of traders."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for a new epoch for each trader."""

    keys: Keys
    trader_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A stamped snapshot."""

    trader_id: str
    epoch: int
    seq: int
    merged: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Admit:
    """Ask to admit entries, in this order. The same Admit may be asked again after a lost answer."""

    keys: Keys
    maxlen: int
    entries: Sequence[Entry]

    def arguments(self) -> list[bytes | str | int]:
        """ARGV of admit.lua."""
        numbers: dict[tuple[str, int], int] = {}
        tail: list[bytes | str | int] = []
        for entry in self.entries:
            number = numbers.setdefault((entry.trader_id, entry.epoch), len(numbers) + 1)
            tail += (number, entry.seq, entry.merged, entry.payload)
        arguments: list[bytes | str | int] = [self.maxlen, len(numbers)]
        for trader_id, epoch in numbers:
            arguments += (trader_id, epoch)
        return arguments + tail


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an Admit."""

    count: int
    """How many entries, from the first on, are in the stream now, or were already; the rest found no room."""
    fenced: Sequence[str]
    """Traders of which a newer producer exists: their state in Redis was left to it."""


def script(name: str) -> str:
    """The text of a script in scripts/."""
    return resources.files("risk_producer").joinpath("scripts", f"{name}.lua").read_text()


def unavailable(error: RedisError) -> StreamUnavailable:
    """The error for the trader."""
    return StreamUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _admit_keys(keys: Keys) -> list[str]:
    return [keys.snapshots, keys.latest, keys.epochs, keys.admitted, keys.counters]


def _admission(answer: Any) -> Admission:
    count, fenced = answer
    return Admission(int(count), [_text(trader_id) for trader_id in fenced])


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw


def _payload(raw: bytes | str | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw  # a client of the trader's may decode responses


class TraderStream:
    """The streams of all partitions on one Redis. Thread-safe. All methods may raise StreamUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._claim = client.register_script(script("claim"))
        self._admit = client.register_script(script("admit"))

    @classmethod
    def connect(cls, url: str) -> TraderStream:
        """A stream on a client of its own; connects when it is first asked something.

        A broken connection is replaced once without a word (it may have been idle for hours); what goes
        wrong then is said.
        """
        return cls(
            redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_TIMEOUT_S,
                socket_connect_timeout=ANSWER_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
                decode_responses=False,
            )
        )

    def claim(self, call: Claim) -> dict[str, int]:
        """trader_id -> its new epoch."""
        try:
            epochs = cast(
                "list[bytes]", self._claim(keys=[call.keys.epochs], args=cast(Any, call.trader_ids))
            )
        except RedisError as error:
            raise unavailable(error) from error
        return {trader_id: int(epoch) for trader_id, epoch in zip(call.trader_ids, epochs, strict=True)}

    def admit(self, call: Admit) -> Admission:
        """Put entries into the stream as far as there is room."""
        try:
            return _admission(self._admit(keys=_admit_keys(call.keys), args=cast(Any, call.arguments())))
        except RedisError as error:
            raise unavailable(error) from error

    def latest(self, keys: Keys, trader_id: str) -> bytes | None:
        """The newest admitted snapshot of a trader, in the wire format."""
        try:
            return _payload(self._client.hget(keys.latest, trader_id))
        except RedisError as error:
            raise unavailable(error) from error

    def forget_connections(self) -> None:
        """After a fork: leave the parent's connections alone and make new ones."""
        self._client.connection_pool.reset()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
