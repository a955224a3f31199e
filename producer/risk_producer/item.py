"""Item: one accepted snapshot on its way to Redis."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

from risk_producer.contract.snapshot import RiskSnapshot


class State(Enum):
    """Where an item is on its way."""

    WAITING = "waiting"
    """In the buffer, or deferred until it can be put there."""
    SENT = "sent"
    """In the buffer, and Redis may have its bytes already: it is neither merged nor cancelled."""
    MERGED = "merged"
    """Another item stands for it: see `into`."""
    ARRIVED = "arrived"
    """Redis has it; without persistence: memory has it."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """It cannot be sent."""


class Item(msgspec.Struct, eq=False, gc=False):
    """An accepted snapshot, and how many older ones it stands for.

    A struct, because that is made quickest; and no object for the garbage collector to look at.
    """

    snapshot: RiskSnapshot
    incarnation: int = 0
    """The incarnation of the producer that accepted it; 0 where there is no spool."""
    reset: datetime | None = None
    """Its last_reset_time: the snapshot's own, else the one that is carried on; None: its recorded_at."""
    since: float = 0.0
    """When it, or the oldest that it stands for, was accepted; monotonic, in seconds."""
    merged: int = 0
    seq: int = 0
    """Its seq, once that is final: the spool assigns it when it writes the snapshot; 0: not yet."""
    segment: int = 0
    """The oldest segment of the spool that is needed for it; 0: none."""
    size: int = 0
    """Bytes that it takes in the spool."""
    changed: bool = True
    """Whether it differs from the trader's one before it in what must never be dropped."""
    state: State = State.WAITING
    into: Item | None = None
    """The item that stands for it, where it is MERGED."""

    @property
    def over(self) -> bool:
        """Whether nothing more will become of this item itself."""
        state = self.state
        return state is State.ARRIVED or state is State.CANCELLED or state is State.LOST

    @property
    def survivor(self) -> Item:
        """The item itself, or the newer one that it was merged into."""
        item = self
        while item.into is not None:
            item = item.into
        return item

    @property
    def decided(self) -> bool:
        """Whether nothing more will become of it, nor of the item that stands for it."""
        return self.survivor.over
