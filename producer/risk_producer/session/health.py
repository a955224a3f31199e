"""How a producer is: its health, where its snapshots are, and why snapshots wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from risk_producer.item import Item
from risk_producer.session.options import Options
from risk_producer.session.outages import Outages
from risk_producer.session.sender import Sender


@dataclass(frozen=True, slots=True)
class Health:
    """How a producer is."""

    backend: Literal["postgres", "memory"]
    """memory: Redis, or a part of it, is away, or persistence is off."""
    reason: str | None
    """Why the backend is memory, a trader is held back, the oldest snapshot has waited for too long, or a
    change of the number of partitions would not be followed."""
    stream_full: bool
    buffered: int
    """Snapshots in memory that Redis has not confirmed."""
    buffer_size: int
    oldest_s: float
    """Seconds that the oldest of them has waited; 0: there is none."""
    accepted: int
    """Snapshots that Redis has taken, those merged into others included."""
    rejected: int
    """Snapshots that the producer did not accept: there was no room, or it was closed."""
    invalid: int
    """Snapshots of this process in which a field broke a rule."""
    conflated: int
    unknown: int
    """Snapshots sent, and not answered when close() stopped: Redis may have them."""
    unsent: int
    """Snapshots accepted, and never to be sent: close() stopped before, or they cannot be encoded."""
    spool: str
    """off, on, or why it fails: then snapshots are in memory only."""
    fenced: tuple[str, ...]
    """Traders for which a newer producer has taken over: history goes on, the state is the newer one's."""
    closed: bool
    away: tuple[int, ...] = ()
    """Partitions whose snapshots Redis does not take just now."""
    partitions: int = 1
    """Partitions that traders are divided into; RISK_PARTITIONS, until Redis has answered."""


@dataclass(frozen=True, slots=True)
class SnapshotTotals:
    """Where the snapshots are that save() or push() took, or that the spool held; each counted once."""

    saved: int
    """All of them. The others add up to it; a merged snapshot counts where the one is that stands for it."""
    confirmed: int
    held: int
    """In memory, on their way or not."""
    spooled: int
    """Left in the spool at the end."""
    unknown: int
    unsent: int

    @property
    def reconciled(self) -> bool:
        """Whether none is missing and none is counted more than once."""
        return self.saved == self.confirmed + self.held + self.spooled + self.unknown + self.unsent


class Diagnosis:
    """Why snapshots wait. The session reports to it what the sender and the outages do not tell."""

    def __init__(self, options: Options, sender: Sender, outages: Outages) -> None:
        self._options = options
        self._sender = sender
        self._outages = outages
        self.awaiting_reply = False
        """Whether Redis has been asked and has not answered."""
        self.no_thread: str | None = None
        """Why there is no flusher; None: nothing prevents it."""
        self.unread: str | None = None
        """Why it cannot be seen how many partitions there are; None: it can."""

    def of_producer(self, oldest: Item | None, now: float) -> str | None:
        """Why this producer's health is not good; None: it is. oldest: the item that has waited longest."""
        if not self._options.persistent:
            return "persistence is off"
        if oldest is not None and now - oldest.since >= self._options.stall_s:
            return f"The oldest snapshot has waited for {now - oldest.since:.0f} s: {self.of_item(oldest)}"
        if self._outages.reason is not None:
            return self._outages.reason
        if self.no_thread is not None:
            return self.no_thread
        held = list(self._sender.held.items())
        return f"trader {held[0][0]!r} is held back: {held[0][1]}" if held else self.unread

    def of_item(self, item: Item) -> str:
        """Why this item waits."""
        return (
            self._sender.held_reason(item.snapshot.trader_id)
            or self._sender.outage_reason(item.snapshot.trader_id)
            or self.no_thread
            or ("the stream is full: is a worker running?" if self._sender.full else None)
            or ("Redis has not answered yet" if self.awaiting_reply else "more comes than Redis takes")
        )
