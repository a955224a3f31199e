"""The worker's side of Redis: read a partition's stream, take off it what is stored, keep the counters.

The consumer has one name a partition, whoever works on it. So what a dead worker had read and not stored
is the pending list of its successor, and nothing has to be claimed from anybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from time import sleep
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis
from redis.exceptions import RedisError, ResponseError

from risk_producer.keys import Keys
from risk_producer.wire import FIELD
from risk_worker.batch import Batch, Entry, Outcome
from risk_worker.drain import SourceUnavailable

if TYPE_CHECKING:
    from risk_producer.settings import Settings

GROUP: Final = "drain"
CONSUMER: Final = "drain"

# Upper bounds of the latency histogram in milliseconds, recorded_at to COMMIT. About 1.3 apart, so that
# a quantile read off them is within a third of the truth.
LATENCY_BOUNDS_MS: Final = (
    *(1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400),
    *(500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 7_000, 10_000, 30_000, 60_000, 300_000, 3_600_000),
)

_NEW: Final = ">"
_FIRST: Final = "0"


def connect(url: str) -> redis.Redis:
    """A client for the drain: answers that do not come are an error, not a hang."""
    return redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30)


class StreamSource:
    """The stream of one partition. Not thread-safe: one drain uses it."""

    def __init__(
        self,
        client: redis.Redis,
        partition: int,
        *,
        batch_size: int = 5_000,
        linger_s: float = 0.0,
        block_s: float = 1.0,
    ) -> None:
        self._client = client
        self._keys = Keys(partition)
        self._batch_size = batch_size
        self._linger_s = linger_s
        self._block_ms = max(1, round(block_s * 1000))
        self._after = _FIRST
        script = resources.files("risk_worker").joinpath("scripts", "acknowledge.lua").read_text()
        self._acknowledge = client.register_script(script)

    @classmethod
    def from_settings(cls, settings: Settings, client: redis.Redis, partition: int) -> StreamSource:
        return cls(
            client, partition, batch_size=settings.batch_size, linger_s=settings.flush_interval_ms / 1000
        )

    @property
    def stream(self) -> str:
        """The stream's key."""
        return self._keys.snapshots

    def read(self) -> Sequence[Entry]:
        """Own pending entries first, then new ones; waits up to block_s for the first new one."""
        if self._after != _NEW:
            entries = self._read(self._after, self._batch_size, block_ms=None)
            if entries:
                self._after = entries[-1].id
                return entries
            self._after = _NEW
        entries = self._read(_NEW, self._batch_size, block_ms=self._block_ms)
        if self._linger_s and entries and len(entries) < self._batch_size:
            sleep(self._linger_s)
            entries += self._read(_NEW, self._batch_size - len(entries), block_ms=None)
        return entries

    def is_empty(self) -> bool:
        """Whether everything that was in the stream is stored."""
        try:
            return self._client.xlen(self.stream) == 0
        except RedisError:
            return False

    def rewind(self) -> None:
        """From now on read what is pending again."""
        self._after = _FIRST

    def acknowledge(self, batch: Batch, outcome: Outcome) -> None:
        """Take the committed batch off the stream and count it, in one script that may be repeated."""
        now = datetime.now(UTC)
        dead_ids = {letter.entry_id for letter in outcome.dead}
        stored: dict[str, list[str]] = defaultdict(list)
        latency_ms: dict[str, float] = {}
        buckets: dict[float, int] = defaultdict(int)
        for entry_id, snapshot in zip(batch.ids, batch.snapshots, strict=True):
            if entry_id in dead_ids:
                continue
            stored[snapshot.trader_id].append(entry_id)
            waited_ms = max(0.0, (now - snapshot.recorded_at).total_seconds() * 1000)
            latency_ms[snapshot.trader_id] = waited_ms
            buckets[_bound(waited_ms)] += 1
        dead: dict[str, list[str]] = defaultdict(list)
        for letter in outcome.dead:
            dead[letter.snapshot.trader_id if letter.snapshot else ""].append(letter.entry_id)
        arguments = msgspec.json.encode(
            {
                "group": GROUP,
                "stored": [[trader, f"{latency_ms[trader]:.3f}", ids] for trader, ids in stored.items()],
                "dead": [[trader, ids] for trader, ids in dead.items()],
                "duplicates": outcome.duplicates,
                "buckets": [[_label(bound), count] for bound, count in buckets.items()],
            }
        )
        keys = self._keys
        try:
            self._acknowledge(
                keys=[
                    keys.snapshots,
                    keys.counters,
                    keys.attempts,
                    keys.failures,
                    keys.latency_ms,
                    keys.latency_buckets,
                ],
                args=[arguments],
            )
        except RedisError as error:
            raise SourceUnavailable(f"Redis did not take the acknowledgement: {error}") from error

    def failed(self, batch: Batch) -> None:
        """Count a failed try, as well as can be: the counts must not stand in the way of the next try."""
        per_trader: dict[str, int] = defaultdict(int)
        for snapshot in batch.snapshots:
            per_trader[snapshot.trader_id] += 1
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hincrby(self._keys.counters, "retries", 1)
        for trader_id, count in per_trader.items():
            pipeline.hincrby(self._keys.attempts, trader_id, count)
            pipeline.hincrby(self._keys.failures, trader_id, count)
        try:
            pipeline.execute()
        except RedisError as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error

    def _read(self, after: str, count: int, *, block_ms: int | None) -> list[Entry]:
        try:
            try:
                answer = self._read_group(after, count, block_ms)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                # A new partition, or Redis lost its data. From the beginning: nothing is passed over.
                self._make_group()
                answer = self._read_group(after, count, block_ms)
        except RedisError as error:
            raise SourceUnavailable(f"Redis did not answer: {error}") from error
        return answer

    def _read_group(self, after: str, count: int, block_ms: int | None) -> list[Entry]:
        answer = cast(
            Any,
            self._client.xreadgroup(GROUP, CONSUMER, {self.stream: after}, count=count, block=block_ms),
        )
        if not answer:
            return []
        if isinstance(answer, dict):  # RESP3
            [batches] = answer.values()
            rows = [row for batch in batches for row in batch]
        else:
            [(_, rows)] = answer
        return [_entry(entry_id, fields) for entry_id, fields in rows]

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _entry(entry_id: bytes, fields: dict[bytes, bytes] | None) -> Entry:
    name = entry_id.decode()
    if fields is None or not fields:
        return Entry(name, b"", "deleted from the stream before it was stored")
    payload = fields.get(FIELD)
    if payload is None or len(fields) > 1:
        shown = [[_text(key), _text(value)] for key, value in fields.items()]
        return Entry(name, msgspec.json.encode(shown), "a foreign entry: it expects the one field s")
    return Entry(name, payload)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _bound(waited_ms: float) -> float:
    at = bisect_left(LATENCY_BOUNDS_MS, waited_ms)
    return LATENCY_BOUNDS_MS[at] if at < len(LATENCY_BOUNDS_MS) else float("inf")


def _label(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"
