"""AsyncRiskProducer: RiskProducer for asyncio, with the same contract. A task talks to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from risk_producer import postgres_state
from risk_producer.bound import AsyncBoundTrader, checked_trader_id
from risk_producer.buffer import Item
from risk_producer.core import CLOSE_TIMEOUT_S, LINGER_S, NEVER, Pending, ProducerCore, check
from risk_producer.errors import InvalidSnapshot, StreamUnavailable
from risk_producer.snapshot import RiskSnapshot
from risk_producer.state import Found, LoadedState, Place
from risk_producer.stream import AsyncTraderStream, Claim
from risk_producer.wire import WireSnapshot, decode


class AsyncRiskProducer(ProducerCore):
    """Keeps the risk state of traders. For the tasks of one event loop; close() it before the loop ends.

    Cancelling is safe: a save() or push() that waits for room has accepted nothing; a push() that waits for
    Redis has accepted the snapshot, and it goes out.
    """

    def _begin(self) -> None:
        super()._begin()
        self._work = asyncio.Event()
        """Set when the flusher has something to do."""
        self._waiting: set[asyncio.Future[None]] = set()
        """Who waits for room in the buffer, or for something to arrive in Redis."""
        self._task: asyncio.Task[None] | None = None
        self._stream: AsyncTraderStream | None = None

    # Saving: in the trader's task.

    async def save(self, snapshot: RiskSnapshot) -> bool:
        """As RiskProducer.save(). Gives up the event loop only where it waits for room."""
        check(snapshot)
        with self._lock:
            accepted = self._accept(snapshot) is not None
        if not accepted:
            deadline = monotonic() + self._save_timeout_s
            accepted = await self._wait_for_room(snapshot, deadline) is not None
        if self._sync_each and accepted:
            self._sync_spool(now=True)
        return accepted

    async def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """As RiskProducer.push()."""
        check(snapshot)
        timeout = self._save_timeout_s if timeout is None else timeout
        deadline = monotonic() + timeout
        item = await self._wait_for_room(snapshot, deadline, urgent=True)
        if item is None:
            raise self._why_refused(timeout)
        if not await self._wait_for(lambda: item.arrived, deadline - monotonic()):
            raise self._why_late(item, timeout)

    def bind(self, trader_id: str) -> AsyncBoundTrader:
        """A handle for one trader, which need not name itself each time."""
        return AsyncBoundTrader(self, trader_id)

    async def _wait_for_room(
        self, snapshot: RiskSnapshot, deadline: float, *, urgent: bool = False
    ) -> Item | None:
        while True:
            with self._lock:
                item = self._accept(snapshot)
                if item is not None:
                    if urgent and not item.done:
                        self._urgent = True
                        self._wake()
                    return item
                remaining = deadline - monotonic()
                if self._closed or remaining <= 0 or self._on_full == "refuse":
                    self._refuse(snapshot)
                    return None
            await self._news(remaining)

    async def _wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        while not condition():
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return False
            await self._news(remaining)
        return True

    async def _news(self, timeout: float | None) -> None:
        """Wait until there may be room, or something has arrived."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            self._waiting.discard(waiter)

    def _tell(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    # Sending: in the flusher's task.

    def _wake(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # made before the loop runs: the first save() wakes it
            return
        self._wake_at = NEVER
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="risk-producer")
        self._work.set()

    async def _run(self) -> None:
        try:
            while await self._wait_for_work():
                await self._send()
                if self._spool is not None and self._spool.fsync == "interval":
                    await asyncio.to_thread(self._sync_spool, now=False)
        finally:
            self._wake_at = 1

    async def _wait_for_work(self) -> bool:
        while not (self._buffer.depth or self._stopping):
            self._wake_at = 1
            self._work.clear()
            await self._work.wait()
        if self._buffer.depth < self._half() and not (self._urgent or self._stopping):
            self._wake_at = self._half()
            await self._rest(LINGER_S)
        self._wake_at = NEVER
        self._urgent = False
        return not self._stopping

    async def _send(self) -> None:
        call = self._outbox.next_call(monotonic())
        if call is None:
            await self._sleep(self._outbox.wait_s(monotonic()))
            return
        stream = self._connected()
        try:
            if isinstance(call, Claim):
                self._outbox.claimed(call, await stream.claim(call))
            else:
                self._was_admitted(call, await stream.admit(call))
        except StreamUnavailable as error:
            with self._lock:
                wait_s = self._redis_is_away(error)
            await self._sleep(wait_s)
        else:
            with self._lock:
                self._redis_answered()
            self._tell()

    async def _sleep(self, seconds: float) -> None:
        deadline = monotonic() + seconds
        while not self._stopping and (remaining := deadline - monotonic()) > 0:
            await self._rest(remaining)

    async def _rest(self, seconds: float) -> None:
        self._work.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._work.wait()
        except TimeoutError:
            pass

    def _connected(self) -> AsyncTraderStream:
        if self._stream is None:
            if self._client is not None:
                self._stream = AsyncTraderStream(self._client)
            else:
                assert self._redis_url is not None
                self._stream = AsyncTraderStream.connect(self._redis_url)
        return self._stream

    # Loading.

    async def load(self, trader_id: str) -> LoadedState | None:
        """As RiskProducer.load(). Asks Postgres in a thread."""
        trader_id = checked_trader_id(trader_id)
        with self._lock:
            memory, epoch, place = self._in_hand(trader_id)
        if not self._persistent:
            return Found(memory, epoch, place).newest(trader_id)
        unanswered: list[tuple[Place, str]] = []
        in_redis: WireSnapshot | None = None
        in_postgres: WireSnapshot | None = None
        try:
            payload = (await self._connected().latest(self._keys_of(trader_id), trader_id)).payload
            in_redis = None if payload is None else decode(payload)
        except (StreamUnavailable, InvalidSnapshot) as error:
            unanswered.append(("redis", str(error)))
        if self._database_url is not None and (memory is None or in_redis is None):
            try:
                in_postgres = await asyncio.to_thread(postgres_state.fetch, self._database_url, trader_id)
            except postgres_state.PostgresUnavailable as error:
                unanswered.append(("postgres", str(error)))
        return self._loaded(Found(memory, epoch, place, in_redis, in_postgres, unanswered).newest(trader_id))

    # The end.

    async def flush(self, timeout: float | None = None) -> bool:
        """As RiskProducer.flush()."""
        pending = Pending(self._buffer.items())
        if pending.arrived():
            return True
        with self._lock:
            self._urgent = True
            self._wake()
        return await self._wait_for(pending.arrived, timeout)

    async def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> bool:
        """As RiskProducer.close()."""
        first, self._closed = not self._closed, True
        self._tell()
        if not first:
            return self._buffer.depth == 0
        try:
            await self.flush(timeout)
        finally:
            await self._stop()
        return self._buffer.depth == 0

    async def _stop(self) -> None:
        self._stopping = True
        self._work.set()
        try:
            if self._task is not None:
                done, _ = await asyncio.wait([self._task], timeout=0.1)
                if not done:
                    self._task.cancel()
                    await asyncio.wait([self._task])
        finally:  # also when close() is cancelled just here
            if self._task is not None:
                self._task.cancel()
            with self._lock:
                self._count_unsent()
            self._collector.retire(self)
            if self._stream is not None and self._client is None:
                await self._stream.close()

    def _end(self, deadline: float) -> None:
        """There is no loop any more that could send what is left; but it is said."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._count_unsent()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
