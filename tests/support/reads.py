"""What a source reads of one stream."""

from __future__ import annotations

from risk_worker.drain.batch import Batch, StreamEntry, decode_entries
from risk_worker.stream.source import StreamSource


def read(source: StreamSource, *, wait: bool = True) -> list[StreamEntry]:
    """The entries that come next; they are of one stream."""
    pieces = source.read(wait=wait)
    assert len(pieces) <= 1
    return [entry for _, entries in pieces for entry in entries]


def read_batch(source: StreamSource, *, wait: bool = True) -> Batch:
    """The same as a batch; there has to be one."""
    [(stream, entries)] = source.read(wait=wait)
    return decode_entries(stream, entries)
