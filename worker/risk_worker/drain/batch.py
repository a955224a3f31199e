"""A batch on its way from the stream to the database, and what became of each entry."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from risk_producer.contract.keys import namespace_of
from risk_producer.contract.wire import Identity, WireSnapshot, decode, decode_all, identity_of
from risk_producer.errors import InvalidSnapshot


class StreamEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the stream as it was read. payload: the bytes of field ``s``, else all that was there."""

    id: str
    payload: bytes
    defect: str | None = None
    """Why payload cannot be a snapshot (a foreign entry, a deleted one); None: try to decode it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that cannot be stored, why, and its original bytes."""

    entry_id: str
    reason: str
    payload: bytes
    sqlstate: str | None = None
    identity: Identity | None = None
    """What it says about itself, as far as that can be read."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A snapshot on its way to the database, with what a dead letter of it would need."""

    entry_id: str
    payload: bytes
    snapshot: WireSnapshot

    @property
    def identity(self) -> Identity:
        """Which snapshot it is."""
        s = self.snapshot
        return Identity(s.trader_id, s.epoch, s.seq, s.merged)


class Incarnation(msgspec.Struct, frozen=True, gc=False):
    """What some rows have of one incarnation of a producer, that is of one trader and epoch."""

    trader_id: str
    epoch: int
    rows: int
    """How many there are; at least 1."""
    newest: WireSnapshot
    """The one with the highest seq."""


def incarnations(rows: Sequence[Row]) -> list[Incarnation]:
    """The rows by incarnation, in the order of their first rows.

    Whatever has to be checked or decided for each row is asked of these few instead: there are many rows of
    each in a batch where there is a backlog, and that is when the time for a row counts.
    """
    snapshots: dict[tuple[str, int], list[WireSnapshot]] = defaultdict(list)
    for row in rows:
        snapshot = row.snapshot
        snapshots[snapshot.trader_id, snapshot.epoch].append(snapshot)
    found = []
    for (trader_id, epoch), of in snapshots.items():
        newest = of[-1]
        if newest.seq < max([each.seq for each in of]):  # a producer adds them in their order
            newest = max(of, key=lambda each: each.seq)
        found.append(Incarnation(trader_id, epoch, len(of), newest))
    return found


@dataclass(slots=True)
class Batch:
    """What was read of one stream in one piece: rows to be stored, and dead letters.

    A transaction stores the batches of several streams.
    """

    stream: str
    rows: list[Row] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    first: str = ""
    """The id of the first entry; the batch is all that the stream had from there to the last."""
    last: str = ""
    refused: str = ""
    """The SQLSTATE by which the database refused its rows, tried together with those of the others; "": none.
    They are not all new, or not all sound."""
    _incarnations: list[Incarnation] | None = None

    def __len__(self) -> int:
        return len(self.rows) + len(self.dead)

    @property
    def namespace(self) -> str:
        """By which namespace it came; "": by none."""
        return namespace_of(self.stream)

    @property
    def incarnations(self) -> list[Incarnation]:
        """Of all rows; found once, after all rows were added."""
        if self._incarnations is None:
            self._incarnations = incarnations(self.rows)
        return self._incarnations

    def without(self, entry_ids: Collection[str]) -> list[Row]:
        """The rows of other entries."""
        return [row for row in self.rows if row.entry_id not in entry_ids]

    def reject(self, dead: Sequence[DeadLetter]) -> None:
        """Make dead letters of rows."""
        self.rows = self.without({each.entry_id for each in dead})
        self.dead += dead
        self._incarnations = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed transaction did with one batch."""

    dead: Sequence[DeadLetter]
    """All dead letters of the batch: those that decoding found and those that the database rejected."""
    duplicates: int
    """Snapshots that history already had: this batch, or a part of it, had been stored before."""


def of_another_namespace(trader_id: str, owner: str, came_by: str) -> str:
    """The reason of a dead letter of a trader that belongs to another namespace."""
    way = f"namespace {came_by}" if came_by else "no namespace"
    return f"the trader {trader_id!r} belongs to namespace {owner}, and this came by {way}"


def not_given_out(epoch: int, newest: int) -> str:
    """The reason of a dead letter whose epoch Redis did not give out."""
    return f"epoch {epoch} was not given out to this trader (the newest is {newest})"


def is_not_given_out(reason: str) -> bool:
    """Whether a dead letter has that reason: whatever else changes, it is no snapshot of a producer."""
    return (
        re.fullmatch(r"epoch \d+ was not given out to this trader \(the newest is \d+\)", reason) is not None
    )


def decode_entries(stream: str, entries: Sequence[StreamEntry]) -> Batch:
    """Decode entries; a bad one becomes a dead letter and never stops the others."""
    batch = Batch(stream)
    if entries:
        batch.first, batch.last = entries[0].id, entries[-1].id
    decoded = decode_all([entry.payload for entry in entries])
    if decoded is not None and all(entry.defect is None for entry in entries):
        batch.rows = [
            Row(entry.id, entry.payload, snapshot) for entry, snapshot in zip(entries, decoded, strict=True)
        ]
        return batch
    for entry in entries:
        if entry.defect is not None:
            identity = identity_of(entry.payload)
            batch.dead.append(DeadLetter(entry.id, entry.defect, entry.payload, identity=identity))
            continue
        try:
            snapshot = decode(entry.payload)
        except InvalidSnapshot as error:
            identity = identity_of(entry.payload)
            batch.dead.append(DeadLetter(entry.id, str(error), entry.payload, identity=identity))
            continue
        batch.rows.append(Row(entry.id, entry.payload, snapshot))
    return batch
