"""The trader's side of Redis: claim epochs, admit a batch, read the newest admitted snapshot.

What is asked of Redis is a value (Claim, Admit), so that the threaded and the asyncio producer ask the same.
Every trouble that Redis can have, from a refused connection to "OOM command not allowed", comes out as
StreamUnavailable with a reason a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from risk_producer.connect import redis_client
from risk_producer.errors import StreamUnavailable
from risk_producer.keys import Keys

ANSWER_TIMEOUT_S: Final = 2.0
"""How long to wait for an answer of Redis, and for a connection."""

BATCH_MAX: Final = 500
"""Entries in one call; Lua's unpack() could take some thousands of traders."""


_TIMEOUTS: Final[dict[str, Any]] = {
    "socket_timeout": ANSWER_TIMEOUT_S,
    "socket_connect_timeout": ANSWER_TIMEOUT_S,
    "decode_responses": False,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for a new epoch for each trader."""

    keys: Keys
    lives: Sequence[tuple[int, str]]
    """Which life, of which trader; the same trader may come twice, its older life first."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stamped snapshot."""

    trader_id: str
    epoch: int
    seq: int
    merged: int
    payload: bytes


class Admit:
    """Ask to admit entries, in this order. The same Admit may be asked again after a lost answer."""

    __slots__ = ("_lives", "arguments", "entries", "keys")

    def __init__(self, keys: Keys, maxlen: int, entries: Sequence[Entry]) -> None:
        """maxlen: entries that the stream may hold."""
        self.keys = keys
        self.entries = entries
        numbers: dict[tuple[str, int], int] = {}
        of = [numbers.setdefault((each.trader_id, each.epoch), len(numbers) + 1) for each in entries]
        self._lives = list(numbers)
        batch: dict[str, Sequence[object]] = {
            "traders": [trader_id for trader_id, _ in numbers],
            "epochs": [str(epoch) for _, epoch in numbers],
            "lives": [f"{epoch}:{trader_id}" for trader_id, epoch in numbers],
            "of": of,
            "seqs": [each.seq for each in entries],
        }
        merged = [each.merged for each in entries]
        if any(merged):
            batch["merged"] = merged
        self.arguments: list[bytes | int] = [
            maxlen,
            msgspec.json.encode(batch),
            *(each.payload for each in entries),
        ]
        """ARGV of admit.lua."""

    def admission(self, answer: Any) -> Admission:
        """The answer of admit.lua."""
        count, fenced = answer
        return Admission(int(count), [self._lives[int(number) - 1] for number in fenced])


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an Admit."""

    count: int
    """How many entries, from the first on, are in the stream now, or were already; the rest found no room."""
    fenced: Sequence[tuple[str, int]]
    """Traders and epochs for which a newer epoch exists: their state in Redis was left to it."""


def script(name: str) -> str:
    """The text of a script in scripts/."""
    return resources.files("risk_producer").joinpath("scripts", f"{name}.lua").read_text()


def unavailable(error: RedisError) -> StreamUnavailable:
    """The error for the trader."""
    return StreamUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _admit_keys(keys: Keys) -> list[str]:
    return [keys.snapshots, keys.latest, keys.epochs, keys.admitted, keys.counters]


def _traders(call: Claim) -> list[str]:
    return [trader_id for _, trader_id in call.lives]


def _epochs(answer: Any) -> list[int]:
    return [int(epoch) for epoch in answer]


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
            redis_client(
                url,
                answer_timeout_s=_TIMEOUTS["socket_timeout"],
                connect_timeout_s=_TIMEOUTS["socket_connect_timeout"],
                retries=1,
            )
        )

    def claim(self, call: Claim) -> list[int]:
        """A new epoch for each of call.lives, in their order."""
        try:
            return _epochs(self._claim(keys=[call.keys.epochs], args=_traders(call)))
        except RedisError as error:
            raise unavailable(error) from error

    def admit(self, call: Admit) -> Admission:
        """Put entries into the stream as far as there is room."""
        try:
            return call.admission(self._admit(keys=_admit_keys(call.keys), args=call.arguments))
        except RedisError as error:
            raise unavailable(error) from error

    def latest(self, keys: Keys, trader_id: str) -> bytes | None:
        """The newest admitted snapshot of a trader, in the wire format."""
        try:
            return _payload(self._client.hget(keys.latest, trader_id))
        except RedisError as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncTraderStream:
    """TraderStream for asyncio."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._claim = client.register_script(script("claim"))
        self._admit = client.register_script(script("admit"))

    @classmethod
    def connect(cls, url: str) -> AsyncTraderStream:
        """As TraderStream.connect()."""
        return cls(
            redis.asyncio.Redis.from_url(  # noqa: TID251
                url, **_TIMEOUTS, retry=AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
            )
        )

    async def claim(self, call: Claim) -> list[int]:
        """As TraderStream.claim()."""
        try:
            return _epochs(await self._claim(keys=[call.keys.epochs], args=_traders(call)))
        except RedisError as error:
            raise unavailable(error) from error

    async def admit(self, call: Admit) -> Admission:
        """As TraderStream.admit()."""
        try:
            return call.admission(await self._admit(keys=_admit_keys(call.keys), args=call.arguments))
        except RedisError as error:
            raise unavailable(error) from error

    async def latest(self, keys: Keys, trader_id: str) -> bytes | None:
        """As TraderStream.latest()."""
        try:
            return _payload(await self._client.hget(keys.latest, trader_id))
        except RedisError as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
