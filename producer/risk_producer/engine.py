"""Engine: a session and its flusher, and what a call of save(), push() or flush() waits for.

The threaded and the asyncio producer differ in how they wait, and in nothing else: what is waited for,
for how long, and what follows is decided here.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from risk_producer import process
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import InvalidSnapshot, StreamUnavailable
from risk_producer.flusher import Flusher
from risk_producer.item import Item, State
from risk_producer.session.session import ProducerSession
from risk_producer.transport.redis import Transport

PUSH_THROUGH_S: Final = 0.1
"""How long save() waits for Redis where it pushes through."""
PUSH_THROUGH_FIRST_S: Final = 1.0
"""The same before Redis has taken anything of this process: a thread starts and connects, and the number of
partitions and an epoch are asked for, before the first snapshot goes."""


class Engine:
    """Never holds the producer, which may be dropped at any time; the flusher sends what is left then."""

    __slots__ = ("_push_through", "_slow_at", "flusher", "save_waits", "session", "through")

    def __init__(
        self, session: ProducerSession, transport: Transport, *, push_through: bool | None = None
    ) -> None:
        """push_through: save() waits for Redis; None: where the process may be ended at any time."""
        self.session = session
        self.flusher = Flusher(session, transport)
        self._push_through = push_through
        self._slow_at = -1
        """How many snapshots Redis had when save() last waited for it in vain."""
        self.through = self.save_waits = False
        """save_waits: save() may wait for the disk or for Redis after the buffer has the snapshot."""
        self.determine_role()

    def determine_role(self) -> None:
        """Whether save() pushes through: known once multiprocessing knows what this process is."""
        through = process.is_short_lived() if self._push_through is None else self._push_through
        self.through = through and self.session.options.persistent
        self.save_waits = self.through or self.session.sync_each

    def child(self) -> Engine:
        """After a fork, in the child: a buffer, a connection and a flusher of its own."""
        return Engine(self.session.child(), self.flusher.transport.child(), push_through=self._push_through)

    def try_to_accept(self, snapshot: RiskSnapshot, box: list[Item]) -> bool:
        """Accept a snapshot into the box. Whether there is nothing to wait for."""
        item = self.session.accept(snapshot)
        if item is not None:
            box.append(item)
        return item is not None or self.session.closed

    def may_wait_for_room(self) -> bool:
        """Whether save() and push() may wait for room: not after close(), nor where on_full is "refuse"."""
        session = self.session
        return not session.closed and session.options.on_full != "refuse" and self.flusher.can_wait()

    def push_through_until(self, trader_id: str) -> float | None:
        """Until when save() should wait for Redis just now; monotonic. None: not at all, as where Redis is
        away, or has just been too slow."""
        session = self.session
        confirmed = session.confirmed
        if not self.through or confirmed == self._slow_at or session.in_memory_for(trader_id):
            return None
        if not self.flusher.can_wait():
            return None
        return monotonic() + (PUSH_THROUGH_S if confirmed else PUSH_THROUGH_FIRST_S)

    def was_slow(self) -> None:
        """save() waited in vain: it does not wait again before Redis has taken something."""
        self._slow_at = self.session.confirmed

    def is_over(self, item: Item) -> bool:
        """Whether there is nothing more to wait for."""
        return item.decided or self.session.ended


class Push:
    """One call of push(): how long it waits, for what, and what it raises."""

    __slots__ = ("_engine", "_timeout_s", "deadline")

    def __init__(self, engine: Engine, timeout_s: float | None) -> None:
        """timeout_s: None: as long as save() waits for room."""
        self._engine = engine
        self._timeout_s = engine.session.options.save_timeout_s if timeout_s is None else timeout_s
        self.deadline = monotonic() + self._timeout_s

    def accepted(self, item: Item | None) -> Item:
        """The item of the snapshot. Raises where there was no room for it."""
        if item is None:
            raise self._engine.session.no_room_error(self._timeout_s)
        return item

    def must_wait(self, item: Item) -> bool:
        """Whether Redis still has to take the item. Raises in the flusher's own thread, and from within a
        call of the same producer, where it cannot be waited for."""
        if item.over:
            return False
        self._engine.session.hurry()
        if not self._engine.flusher.can_wait():
            raise StreamUnavailable(
                "push() was called from within the producer, which it cannot wait for; "
                "the snapshot is sent later"
            )
        return True

    def conclude(self, item: Item) -> None:
        """Raise, where Redis does not have the item."""
        final = item.survivor
        if final.state is State.LOST:
            raise InvalidSnapshot("the snapshot cannot be encoded: it is left out, and the log says why")
        if not final.over:
            raise self._engine.session.late_error(item, self._timeout_s)


class Pending:
    """What was in the buffer at one moment, for flush() to wait for."""

    def __init__(self, session: ProducerSession) -> None:
        self._session = session
        self._items = session.pending()
        self._deferred = session.section.is_held() and not session.empty

    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        while self._items and self._items[-1].decided:
            if self._items.pop().survivor.state is State.LOST:
                self._items.clear()
                self._items.append(_LOST)
                return True
        if self._items:
            return self._session.ended or self._items[-1] is _LOST
        return not self._deferred or self._session.empty

    def arrived(self) -> bool:
        """Whether Redis has it all."""
        return self.over() and not self._items and self._session.totals().reconciled


_LOST: Final = Item(
    RiskSnapshot(trader_id="lost", daily_pnl=0.0, drawdown_pct=0.0, current_equity=0.0, peak_equity=0.0)
)
"""Stands for what cannot be sent at all."""
