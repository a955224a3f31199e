"""A segment of the spool, whatever happened to its bytes."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from risk_producer.spool.segment import (
    ACCEPTED,
    CLAIMED,
    CONFIRMED,
    MAGIC,
    OVERHEAD,
    Damage,
    Record,
    pack,
    scan,
)

EXAMPLES = settings(max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "50")))
NUMBERS = st.integers(0, 2**64 - 1)
RECORDS = st.lists(
    st.builds(
        Record, st.sampled_from([ACCEPTED, CLAIMED, CONFIRMED]), NUMBERS, NUMBERS, st.binary(max_size=60)
    ),
    max_size=6,
    unique=True,
)


def packed(records: list[Record]) -> bytes:
    return MAGIC + b"".join(pack(*record) for record in records)


@EXAMPLES
@given(RECORDS)
def test_what_was_packed_is_scanned(records: list[Record]) -> None:
    assert list(scan(packed(records))) == records


@EXAMPLES
@given(RECORDS, st.integers(0, 600))
def test_a_torn_end_costs_the_record_that_it_is_in(records: list[Record], length: int) -> None:
    data = packed(records)[: max(length, len(MAGIC))]
    whole, end = [], len(MAGIC)
    for record in records:
        end += OVERHEAD + len(record.text)
        if end <= len(data):
            whole.append(record)
    scanned = list(scan(data))
    rest = len(data) - len(packed(whole))
    torn = [Damage("torn", len(data) - rest, rest)] if rest else []
    assert scanned == [*whole, *torn]


@EXAMPLES
@given(RECORDS, st.data())
def test_damage_costs_no_other_record(records: list[Record], data: st.DataObject) -> None:
    """One stretch of foreign bytes in place of some: the records that it does not touch are all there."""
    whole = bytearray(packed(records))
    begin = data.draw(st.integers(len(MAGIC), len(whole)), "begin")
    foreign = data.draw(st.binary(max_size=40), "foreign")
    end = data.draw(st.integers(begin, min(len(whole), begin + 40)), "end")
    whole[begin:end] = foreign
    kept, at = [], len(MAGIC)
    for record in records:
        size = OVERHEAD + len(record.text)
        if at + size <= begin or at >= end:
            kept.append(record)
        at += size
    scanned = [each for each in scan(bytes(whole)) if isinstance(each, Record)]
    assert [record for record in scanned if record in kept] == kept


@EXAMPLES
@given(st.binary(max_size=80))
def test_any_bytes_are_read_to_the_end(data: bytes) -> None:
    scanned = list(scan(data))
    assert sum(each.size for each in scanned if isinstance(each, Damage)) <= len(data)
