"""AsyncRiskProducer: RiskProducer for asyncio, on the same session and the same flusher thread.

Nothing of it belongs to an event loop but the futures of the tasks that wait. So it may be made before a loop
runs, be used in one loop after the other, and sends what is left when the process ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from risk_producer.base import ProducerBase, check
from risk_producer.bound import AsyncBoundTrader
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.engine import Pending, Push
from risk_producer.errors import ConfigurationError, StateUnknown
from risk_producer.flusher import GRACE_S
from risk_producer.item import Item
from risk_producer.load.sources import LoadedState, load
from risk_producer.process import CLOSE_TIMEOUT_S
from risk_producer.session.section import log

T = TypeVar("T")

_NO_LOOP = "it waits on an event loop of asyncio, and none runs here; use RiskProducer, in a thread"


class AsyncRiskProducer(ProducerBase):
    """Keeps the risk state of traders. For tasks of any event loop of asyncio.

    Cancelling is safe: a save() or push() that waits for room has accepted nothing; a push() that waits for
    Redis has accepted the snapshot, and it is sent.
    """

    async def save(self, snapshot: RiskSnapshot) -> bool:
        """As RiskProducer.save(). Gives up the event loop only where it waits for room.

        Where no loop of asyncio runs (trio) it cannot wait: without room it answers False.
        """
        if type(snapshot) is not RiskSnapshot:
            check(snapshot)
        engine = self._engine
        item = engine.session.accept(snapshot)
        if item is not None and not engine.save_waits:
            return True
        return await self._save_and_wait(snapshot, item)

    async def _save_and_wait(self, snapshot: RiskSnapshot, item: Item | None) -> bool:
        engine, looped = self._engine, _has_loop()
        session = engine.session
        if item is None:
            if looped:
                item = await self._wait_for_room(snapshot, monotonic() + session.options.save_timeout_s)
            else:
                session.reject(snapshot)
                session.log_once(
                    f"AsyncRiskProducer.save() rejects snapshots where it would wait for room: {_NO_LOOP}"
                )
        if item is None:
            return False
        accepted = item
        if session.sync_each:
            session.sync_spool(now=True)
        until = engine.push_through_until(snapshot.trader_id)
        if until is not None and looped:
            session.hurry()
            if not await session.waiters.wait_for_async(lambda: engine.is_over(accepted), until):
                engine.was_slow()
        return True

    async def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """As RiskProducer.push()."""
        check(snapshot)
        _require_loop("push()")
        engine = self._engine
        push = Push(engine, timeout)
        item = push.accepted(
            engine.session.accept(snapshot) or await self._wait_for_room(snapshot, push.deadline)
        )
        if push.must_wait(item):
            await engine.session.waiters.wait_for_async(lambda: engine.is_over(item), push.deadline)
            push.conclude(item)

    def bind(self, trader_id: str) -> AsyncBoundTrader:
        """A handle for one trader, which need not name itself each time."""
        return AsyncBoundTrader(self, trader_id)

    async def _wait_for_room(self, snapshot: RiskSnapshot, deadline: float) -> Item | None:
        engine = self._engine
        box: list[Item] = []
        if engine.may_wait_for_room():
            waiters = engine.session.waiters
            await waiters.wait_for_async(lambda: engine.try_to_accept(snapshot, box), deadline)
        if not box:
            engine.session.reject(snapshot)
            return None
        return box[0]

    async def load(self, trader_id: str) -> LoadedState | None:
        """As RiskProducer.load(). Asks Redis and Postgres in a thread of its own."""
        if not _has_loop():
            raise StateUnknown(f"load() cannot ask: {_NO_LOOP}")
        return await _in_thread(lambda: load(self._engine.flusher, self._database_url, trader_id))

    async def flush(self, timeout: float | None = None) -> bool:
        """As RiskProducer.flush()."""
        pending = Pending(self._engine.session)
        if not pending.over():
            self._engine.session.hurry()
            _require_loop("flush()")
            if self._engine.flusher.can_wait():
                deadline = None if timeout is None else monotonic() + timeout
                await self._engine.session.waiters.wait_for_async(pending.over, deadline)
        return pending.arrived()

    async def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> bool:
        """As RiskProducer.close(). Where it is cancelled, the rest is sent in the time given all the same."""
        flusher = self._engine.flusher
        deadline = flusher.request_close(timeout)
        if flusher.can_wait():
            if not flusher.is_over():
                _require_loop("close()")
            wait_until = None if deadline is None else deadline + GRACE_S
            await self._engine.session.waiters.wait_for_async(flusher.is_over, wait_until)
            flusher.end_now(monotonic())
        return self._engine.session.all_confirmed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _require_loop(what: str) -> None:
    if not _has_loop():
        raise ConfigurationError(f"AsyncRiskProducer.{what} cannot wait: {_NO_LOOP}")


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a function that waits in a thread of its own: the host's executor may be busy, or shut down."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, failed = None, None
        try:
            value = function()
        except Exception as error:  # noqa: BLE001  it is raised where the answer is awaited
            failed = error
        try:
            loop.call_soon_threadsafe(deliver, value, failed)
        except RuntimeError:
            log.debug("The event loop was closed before load() could answer")

    try:
        threading.Thread(target=run, name="risk-producer-load", daemon=True).start()
    except RuntimeError as error:
        raise StateUnknown(f"load() cannot ask: {error}") from None
    return await answer
