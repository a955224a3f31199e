"""A batch on its way from the stream to the database, and what became of each entry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from risk_producer.errors import InvalidSnapshot
from risk_producer.snapshot import TRADER_ID_MAX, check_text
from risk_producer.wire import WireSnapshot, decode

_BIGINT_MAX: Final = 2**63 - 1


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the stream as it was read. payload: the bytes of field ``s``, else all that was there."""

    id: str
    payload: bytes
    defect: str | None = None
    """Why payload cannot be a snapshot (a foreign entry, a deleted one); None: try to decode it."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The identity of a snapshot. It stands for the seq numbers seq-merged .. seq."""

    trader_id: str
    epoch: int
    seq: int
    merged: int = 0


class _Identity(msgspec.Struct, gc=False):
    trader_id: Annotated[str, Meta(min_length=1, max_length=TRADER_ID_MAX)]
    epoch: Annotated[int, Meta(ge=1, le=_BIGINT_MAX)]
    seq: Annotated[int, Meta(ge=1, le=_BIGINT_MAX)]
    merged: object = 0


def identity_of(payload: bytes) -> Identity | None:
    """The identity in the bytes of field ``s``, whatever else is wrong with them; None: there is none."""
    try:
        found = _identity_decoder.decode(payload)
        check_text("trader_id", found.trader_id, TRADER_ID_MAX, least=1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidSnapshot):
        return None
    merged = found.merged if type(found.merged) is int and 0 <= found.merged < found.seq else 0
    return Identity(found.trader_id, found.epoch, found.seq, merged)


_identity_decoder = msgspec.json.Decoder(_Identity)


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
