"""Producers for tests: the threaded and the asyncio one behind the same blocking interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import fakeredis
import redis
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, Health, LoadedState, RiskProducer, RiskSnapshot
from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import WireSnapshot, decode
from tests.support.redis import stream_of

T = TypeVar("T")

# Of whatever is expected to succeed: only a failure takes that long.
PATIENCE_S = 30.0


class Producer(Protocol):
    """What both have in common, called from a test's thread."""

    registry: CollectorRegistry

    def save(self, snapshot: RiskSnapshot) -> bool: ...
    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None: ...
    def load(self, trader_id: str) -> LoadedState | None: ...
    def flush(self, timeout: float | None = None) -> bool: ...
    def close(self, timeout: float | None = PATIENCE_S) -> bool: ...
    def health(self) -> Health: ...
    @property
    def stream(self) -> Any: ...


class Threaded:
    """RiskProducer."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.inner = RiskProducer(registry=self.registry, **options)
        self.save = self.inner.save
        self.push = self.inner.push
        self.load = self.inner.load
        self.flush = self.inner.flush
        self.health = self.inner.health

    def close(self, timeout: float | None = PATIENCE_S) -> bool:
        return self.inner.close(timeout)

    @property
    def stream(self) -> Any:
        return self.inner._engine.flusher.transport.connected()


class OnLoop:
    """AsyncRiskProducer, on an event loop in a thread of its own."""

    def __init__(
        self,
        *,
        fake: fakeredis.FakeServer | None = None,
        make: Callable[..., AsyncRiskProducer] = AsyncRiskProducer,
        **options: Any,
    ) -> None:
        self.registry = CollectorRegistry()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def made() -> AsyncRiskProducer:
            if fake is not None:
                options["client"] = fakeredis.FakeRedis(server=fake)
            return make(registry=self.registry, **options)

        self.inner = self._await(made())

    def save(self, snapshot: RiskSnapshot) -> bool:
        return self._await(self.inner.save(snapshot))

    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        self._await(self.inner.push(snapshot, timeout))

    def load(self, trader_id: str) -> LoadedState | None:
        return self._await(self.inner.load(trader_id))

    def flush(self, timeout: float | None = None) -> bool:
        return self._await(self.inner.flush(timeout))

    def close(self, timeout: float | None = PATIENCE_S) -> bool:
        return self._await(self.inner.close(timeout))

    def health(self) -> Health:
        return self.inner.health()

    @property
    def stream(self) -> Any:
        return self.inner._engine.flusher.transport.connected()

    def stop(self) -> None:
        """End the loop and its thread."""

        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(90)


class Bench:
    """A Redis, real or fake, and producers on it. Closes what it made."""

    def __init__(self, flavour: str, redis_url: str | None) -> None:
        """flavour: threaded or asyncio; redis_url: None for fakeredis."""
        self.flavour = flavour
        self._url = redis_url
        self.fake = fakeredis.FakeServer() if redis_url is None else None
        self.redis: redis.Redis = (
            fakeredis.FakeRedis(server=self.fake) if redis_url is None else redis.Redis.from_url(redis_url)
        )
        self._made: list[Threaded | OnLoop] = []

    def producer(self, **options: Any) -> Producer:
        """A producer. A test that expects a timeout asks for a short one; others wait as long as it takes."""
        options = {"save_timeout_s": PATIENCE_S, **options}
        made: Threaded | OnLoop
        if self._url is not None:
            options["redis_url"] = self._url
            made = Threaded(**options) if self.flavour == "threaded" else OnLoop(**options)
        elif self.flavour == "threaded":
            made = Threaded(client=fakeredis.FakeRedis(server=self.fake), **options)
        else:
            made = OnLoop(fake=self.fake, **options)
        self._made.append(made)
        return cast("Producer", made)

    def stored(self, partition: int = 0) -> list[WireSnapshot]:
        """What is in a partition's stream, the oldest first."""
        return stream_of(self.redis, partition)

    def drain(self, count: int, partition: int = 0) -> list[WireSnapshot]:
        """Take the oldest entries away, as a worker does."""
        key = Keys(partition).snapshots
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(key, count=count))
        if entries:
            self.redis.xdel(key, *[entry_id for entry_id, _ in entries])
        return [decode(fields[b"s"]) for _, fields in entries]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for made in self._made:
            made.close(0.0)
            if isinstance(made, OnLoop):
                made.stop()
        self.redis.close()
