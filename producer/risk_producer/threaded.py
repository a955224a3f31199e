"""RiskProducer: what a trading loop calls. save() appends to a buffer; a flusher thread talks to Redis."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from risk_producer.base import ProducerBase, check
from risk_producer.bound import BoundTrader
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.engine import Pending, Push
from risk_producer.item import Item
from risk_producer.load.sources import LoadedState, load
from risk_producer.process import CLOSE_TIMEOUT_S


class RiskProducer(ProducerBase):
    """Keeps the risk state of traders. Thread-safe; after a fork both sides may go on.

    Any method may be called from anywhere, also by a signal handler, a finalizer or a log handler that has
    interrupted another one. Where a call cannot wait there, it raises or answers False at once.
    """

    def save(self, snapshot: RiskSnapshot) -> bool:
        """Accept a snapshot and return at once; it goes to Redis in the background, in order.

        Where the buffer is full: see on_full. False: not accepted, and counted as rejected; also after
        close(). Whatever state Redis is in, it raises nothing but InvalidSnapshot for what is no snapshot.
        """
        if type(snapshot) is not RiskSnapshot:
            check(snapshot)
        engine = self._engine
        item = engine.session.accept(snapshot)
        if item is not None and not engine.save_waits:
            return True
        return self._save_and_wait(snapshot, item)

    def _save_and_wait(self, snapshot: RiskSnapshot, item: Item | None) -> bool:
        """There was no room, or save() waits for the disk or for Redis."""
        engine, session = self._engine, self._engine.session
        if item is None:
            item = self._wait_for_room(snapshot, monotonic() + session.options.save_timeout_s)
        if item is None:
            return False
        accepted = item
        if session.sync_each:
            session.sync_spool(now=True)
        until = engine.push_through_until(snapshot.trader_id)
        if until is not None:
            session.hurry()
            if not session.waiters.wait_for(lambda: engine.is_over(accepted), until):
                engine.was_slow()
        return True

    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """Accept a snapshot and return when Redis has it. timeout in seconds; default: save_timeout_s.

        StreamFull: there was no room all the time; the snapshot was not accepted.
        StreamUnavailable: Redis did not answer in time; the snapshot stays in memory and is sent later.
        ProducerClosed: after close(); the snapshot was not accepted.
        """
        check(snapshot)
        engine = self._engine
        push = Push(engine, timeout)
        item = push.accepted(engine.session.accept(snapshot) or self._wait_for_room(snapshot, push.deadline))
        if push.must_wait(item):
            engine.session.waiters.wait_for(lambda: engine.is_over(item), push.deadline)
            push.conclude(item)

    def bind(self, trader_id: str) -> BoundTrader:
        """A handle for one trader, which need not name itself each time."""
        return BoundTrader(self, trader_id)

    def _wait_for_room(self, snapshot: RiskSnapshot, deadline: float) -> Item | None:
        """Accept a snapshot as soon as there is room; None, and counted as rejected: there was none."""
        box: list[Item] = []
        if self._engine.may_wait_for_room():
            self._engine.session.waiters.wait_for(lambda: self._engine.try_to_accept(snapshot, box), deadline)
        if not box:
            self._engine.session.reject(snapshot)
            return None
        return box[0]

    def load(self, trader_id: str) -> LoadedState | None:
        """The newest state of a trader, from memory, Redis, and Postgres (where database_url is given).

        None: there is none, for certain. StateUnknown: a source that would know did not answer, or cannot
        know. A state comes with `unanswered`: the sources that might know a newer one and did not answer.
        InvalidSnapshot: trader_id is no name of a trader.
        """
        return load(self._engine.flusher, self._database_url, trader_id)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until Redis has all that was accepted before this call. False: not within timeout seconds."""
        pending = Pending(self._engine.session)
        if not pending.over():
            self._engine.session.hurry()
            if self._engine.flusher.can_wait():
                deadline = None if timeout is None else monotonic() + timeout
                self._engine.session.waiters.wait_for(pending.over, deadline)
        return pending.arrived()

    def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> bool:
        """Flush, and stop. May be called again. Returns whether Redis has all that was accepted.

        False: some had not been confirmed after timeout seconds; health() and the log say how many were never
        sent, and how many were sent and not answered. Without a spool the former are gone.
        """
        return self._engine.flusher.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
