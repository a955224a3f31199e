"""The worker's side of Redis: read a partition's stream, take off it what is stored, keep the counters.

What is in the stream is not yet stored, and what is stored leaves it. So there is no consumer group: reading
starts at the stream's beginning, and a successor of a dead worker finds everything where it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import sleep
from typing import TYPE_CHECKING, Any, Final

import msgspec

from risk_producer.contract import counters
from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import script
from risk_producer.contract.wire import FIELD
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.drain.batch import Batch, Outcome, StreamEntry
from risk_worker.drain.errors import SourceUnavailable
from risk_worker.stream import acknowledgement
from risk_worker.stream.acknowledgement import Acknowledged, Acknowledgement
from risk_worker.stream.clocks import Clocks
from risk_worker.stream.epochs import Epochs

if TYPE_CHECKING:
    from risk_producer.settings import Settings

FORGET_AFTER_MS: Final = 24 * 3600 * 1000
"""How long at the least Redis remembers what it admitted under an epoch after a newer one was given out."""
FORGET_PAGE: Final = 1_000

_BEGINNING: Final = "0-0"

# Redis bounds a read by the number of entries alone, and any client may have put huge ones into the stream.
# So the number starts small, grows while the reads are small, and shrinks after a large one.
_READ_BYTES: Final = 32 * 1024 * 1024
_FIRST_COUNT: Final = 4


def connect(url: str) -> RedisClient:
    """A client for the drain: answers that do not come are an error, not a hang."""
    return redis_client(url, answer_timeout_s=10, connect_timeout_s=5, retries=10, health_check_s=30)


class Forget(msgspec.Struct):
    """The message to forget.lua."""

    keep_ms: int
    page: int
    """How many to look at."""


class Forgotten(msgspec.Struct):
    """The answer of forget.lua."""

    forgotten: int
    """How many."""


def _raw(answer: Any, **_options: object) -> Any:
    return answer


class StreamSource:
    """The stream of one partition. Not thread-safe: one drain uses it."""

    def __init__(
        self,
        client: RedisClient,
        partition: int,
        *,
        batch_size: int = 5_000,
        linger_s: float = 0.0,
        block_s: float = 1.0,
        look: Callable[[], None] | None = None,
    ) -> None:
        """look: called before each read, for what has to be looked after between two batches."""
        self._client = client
        client.set_response_callback("XREAD", _raw)  # redis-py's own costs more than reading the entries
        self._keys = Keys(partition)
        self._batch_size = batch_size
        self._count = min(_FIRST_COUNT, batch_size)
        self.more = False
        self._linger_s = linger_s
        self._block_ms = max(1, round(block_s * 1000))
        self._after = _BEGINNING
        self._look = look
        self._epochs = Epochs(client, self._keys)
        self._clocks = Clocks()
        self._acknowledge = client.register_script(script(__package__, "acknowledge"))
        self._forget = client.register_script(script(__package__, "forget"))

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        client: RedisClient,
        partition: int,
        look: Callable[[], None] | None = None,
    ) -> StreamSource:
        return cls(
            client,
            partition,
            batch_size=settings.batch_size,
            linger_s=settings.flush_interval_ms / 1000,
            look=look,
        )

    @property
    def stream(self) -> str:
        """The stream's key."""
        return self._keys.snapshots

    def read(self, *, wait: bool = True) -> Sequence[StreamEntry]:
        """What comes after the last read; with wait, it waits up to block_s for the first entry."""
        if self._look is not None:
            self._look()
        count = self._count
        entries = self._read(count, block_ms=self._block_ms if wait else None)
        if wait and self._linger_s and 0 < len(entries) < count:
            sleep(self._linger_s)
            entries += self._read(count - len(entries), block_ms=None)
        self.more = len(entries) == count
        size = sum(len(entry.payload) for entry in entries)
        if size > _READ_BYTES:
            self._count = max(1, len(entries) * _READ_BYTES // size)
        elif self.more and 4 * size <= _READ_BYTES:
            self._count = min(self._batch_size, 4 * count)
        return entries

    def examine(self, batch: Batch) -> None:
        """Make dead letters of snapshots whose epoch Redis did not give out to their trader."""
        try:
            self._epochs.examine(batch)
        except REDIS_ERRORS as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error

    def length(self) -> int:
        """Entries that wait. Raises redis.RedisError."""
        length: Any = self._client.xlen(self.stream)
        return int(length)

    def is_empty(self) -> bool:
        """Whether everything that was in the stream is stored."""
        try:
            return self._client.xlen(self.stream) == 0
        except REDIS_ERRORS:
            return False

    def rewind(self) -> None:
        """From now on read again what is not acknowledged."""
        self._after = _BEGINNING

    def acknowledge(self, batch: Batch, outcome: Outcome) -> None:
        """Take the committed batch off the stream and count it, in one script that may be repeated."""
        now = datetime.now(UTC)
        self._clocks.compare(batch.last, acknowledgement.newest_times(batch, outcome))
        if self._report(acknowledgement.whole(batch, outcome, now)).ids_needed:
            self._report(acknowledgement.listed(batch, outcome, now))

    def failed(self, batch: Batch) -> None:
        """Count a failed try, as well as can be: the counts must not stand in the way of the next try."""
        per_trader: dict[str, int] = defaultdict(int)
        for each in batch.incarnations:
            per_trader[each.trader_id] += each.rows
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hincrby(self._keys.counters, counters.RETRIES, 1)
        for trader_id, count in per_trader.items():
            pipeline.hincrby(self._keys.attempts, trader_id, count)
            pipeline.hincrby(self._keys.failures, trader_id, count)
        try:
            pipeline.execute(raise_on_error=False)  # a counter that cannot be counted is no reason to wait
        except REDIS_ERRORS as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error

    def forget(self) -> int:
        """Drop a page of what Redis remembers of incarnations that are long over, so that no client waits.

        Returns how many it dropped.
        """
        keys = self._keys
        try:
            answer: Any = self._forget(
                keys=[keys.superseded, keys.admitted, keys.epochs, keys.snapshots],
                args=[msgspec.json.encode(Forget(FORGET_AFTER_MS, FORGET_PAGE))],
            )
        except REDIS_ERRORS as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error
        return msgspec.json.decode(answer, type=Forgotten).forgotten

    def _report(self, report: Acknowledgement) -> Acknowledged:
        """Ask acknowledge.lua."""
        keys = self._keys
        try:
            answer: Any = self._acknowledge(
                keys=[
                    keys.snapshots,
                    keys.counters,
                    keys.attempts,
                    keys.failures,
                    keys.latency_ms,
                    keys.latency_buckets,
                    keys.admitted,
                ],
                args=[msgspec.json.encode(report)],
            )
        except REDIS_ERRORS as error:
            raise SourceUnavailable(f"Redis did not take the acknowledgement: {error}") from error
        return msgspec.json.decode(answer, type=Acknowledged)

    def _read(self, count: int, *, block_ms: int | None) -> list[StreamEntry]:
        try:
            answer: Any = self._client.xread({self.stream: self._after}, count=count, block=block_ms)
        except REDIS_ERRORS as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error
        if not answer:
            # Everything read is acknowledged by now. Redis may have lost its data, and its clock may have
            # gone back: ids that come may be smaller than those that were.
            self._after = _BEGINNING
            return []
        [(_, rows)] = answer.items() if isinstance(answer, dict) else answer  # RESP3, RESP2
        entries = [_entry(entry_id, fields) for entry_id, fields in rows]
        self._after = entries[-1].id
        return entries


def _entry(entry_id: bytes, fields: Sequence[bytes]) -> StreamEntry:
    """fields: name, value, name, value, ..."""
    if len(fields) == 2 and fields[0] == FIELD:
        return StreamEntry(entry_id.decode(), fields[1])
    shown = msgspec.json.encode([_text(text) for text in fields])
    return StreamEntry(entry_id.decode(), shown, "a foreign entry: it expects the one field s")


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
