"""The record format of the spool's segments: pack, scan, resynchronise. Pure functions over bytes.

A segment is a magic text and then records:

    length of body, crc32 of body         two unsigned 32-bit numbers
    body                                  kind, incarnation, number, text

    S  incarnation, epoch (0: not claimed), snapshot as on the wire     accepted
    L  incarnation, epoch, trader_id                                    the epoch was claimed
    D  incarnation, seq, trader_id                                      Redis has all up to this seq

    R                                                                   this segment stands for all before it

The end of a segment may be torn: a record that is not whole was not accepted. Damage elsewhere costs the
records that it touches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, Literal, NamedTuple
from zlib import crc32

MAGIC: Final = b"riskspool 1\n"

ACCEPTED: Final = b"S"
CLAIMED: Final = b"L"
CONFIRMED: Final = b"D"
REWRITTEN: Final = b"R"

_FRAME: Final = Struct("<II")
_HEAD: Final = Struct("<cQQ")
_KINDS: Final = re.compile(b"[SLDR]")
_BODY_MAX: Final = 64 * 1024

OVERHEAD: Final = _FRAME.size + _HEAD.size
"""Bytes of a record besides its text."""


class Record(NamedTuple):
    """One whole record."""

    kind: bytes
    incarnation: int
    number: int
    """An epoch or a seq, as the kind says."""
    text: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no records."""

    kind: Literal["foreign", "torn", "damaged"]
    """foreign: the data is no segment. torn: its end is not a whole record. damaged: whole records follow."""
    at: int
    size: int
    """Bytes, from `at` on."""


def pack(kind: bytes, incarnation: int, number: int, text: bytes) -> bytes:
    """The bytes of a record."""
    body = _HEAD.pack(kind, incarnation, number) + text
    return _FRAME.pack(len(body), crc32(body)) + body


def scan(data: bytes) -> Iterator[Record | Damage]:
    """Each whole record of a segment, and the damage between and after them."""
    at = len(MAGIC)
    if data[:at] != MAGIC:
        if data:
            yield Damage("foreign", 0, len(data))
        return
    damaged = False
    while at < len(data):
        body = _body(data, at)
        if body is not None:
            at += _FRAME.size + len(body)
            kind, incarnation, number = _HEAD.unpack_from(body)
            if not (kind == REWRITTEN and damaged):  # what is lost here may be in the segments before
                yield Record(kind, incarnation, number, body[_HEAD.size :])
            continue
        whole = _resynchronise(data, at + 1)
        if whole is None:
            yield Damage("torn", at, len(data) - at)
            return
        damaged = True
        yield Damage("damaged", at, whole - at)
        at = whole


def _body(data: bytes, at: int) -> bytes | None:
    """The body of the record that begins there; None: none does that is whole."""
    begin = at + _FRAME.size
    if begin > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, at)
    if not _HEAD.size <= length <= _BODY_MAX:
        return None
    body = data[begin : begin + length]
    return body if len(body) == length and crc32(body) == checksum else None


def _resynchronise(data: bytes, at: int) -> int | None:
    """Where the next whole record begins; None: there is none."""
    begins = (kind.start() - _FRAME.size for kind in _KINDS.finditer(data, at + _FRAME.size))
    return next((begin for begin in begins if _body(data, begin) is not None), None)
