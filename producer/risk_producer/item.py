"""Item: one accepted snapshot on its way to Redis."""

from __future__ import annotations

from datetime import datetime

import msgspec

from risk_producer.contract.snapshot import RiskSnapshot


class Item(msgspec.Struct, eq=False, gc=False):
    """An accepted snapshot, and how many older ones it stands for.

    A struct, because that is made quickest; and no object for the garbage collector to look at.
    """

    snapshot: RiskSnapshot
    incarnation: int = 0
    """The incarnation of the producer that accepted it; told apart only where there is a spool."""
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
    sent: bool = False
    """Redis may have its bytes already: it is neither merged nor cancelled."""
    into: Item | None = None
    """The item that it was merged into."""
    done: bool = False
    """It has left the buffer: Redis has it, or it was cancelled, or it cannot be sent."""
    lost: bool = False
    """It cannot be sent."""

    @property
    def survivor(self) -> Item:
        """The item itself, or the newer one that it was merged into."""
        item = self
        while item.into is not None:
            item = item.into
        return item

    @property
    def arrived(self) -> bool:
        """Whether Redis has it, or the newer one that it was merged into, or it is lost or cancelled."""
        return self.survivor.done
