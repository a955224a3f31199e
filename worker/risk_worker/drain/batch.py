"""A batch on its way from the stream to the database, and what became of each entry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from risk_producer.contract.wire import Identity, WireSnapshot, decode, identity_of
from risk_producer.errors import InvalidSnapshot


class Entry(msgspec.Struct, frozen=True, gc=False):
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


@dataclass(slots=True)
class Batch:
    """Entries decoded: ids[i] and payloads[i] belong to snapshots[i]; dead are those that are none."""

    stream: str
    ids: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    snapshots: list[WireSnapshot] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    first: str = ""
    """The id of the first entry; the batch is all that the stream had from there to the last."""
    last: str = ""

    def __len__(self) -> int:
        return len(self.ids) + len(self.dead)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one committed transaction did with a batch."""

    dead: Sequence[DeadLetter]
    """All dead letters of the batch: those decoding found and those the database refused."""
    duplicates: int
    """Snapshots that history already had: this batch, or a part of it, had been stored before."""


def not_given_out(epoch: int, newest: int) -> str:
    """The reason of a dead letter whose epoch Redis did not give out."""
    return f"epoch {epoch} was not given out to this trader (the newest is {newest})"


def is_not_given_out(reason: str) -> bool:
    """Whether a dead letter has that reason: whatever else changes, it is no snapshot of a producer."""
    return (
        re.fullmatch(r"epoch \d+ was not given out to this trader \(the newest is \d+\)", reason) is not None
    )


def decode_entries(stream: str, entries: Sequence[Entry]) -> Batch:
    """Decode entries; a bad one becomes a dead letter and never stops the others."""
    batch = Batch(stream)
    if entries:
        batch.first, batch.last = entries[0].id, entries[-1].id
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
        batch.ids.append(entry.id)
        batch.payloads.append(entry.payload)
        batch.snapshots.append(snapshot)
    return batch
