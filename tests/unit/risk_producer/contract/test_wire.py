"""The wire contract: what was ever released can be read, and what cannot be read says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from risk_producer import InvalidSnapshot, RiskSnapshot
from risk_producer.contract.wire import Identity, decode, encode, identity_of
from tests.golden.make import ENTRIES, PLAIN

GOLDEN = Path(__file__).parents[3] / "golden" / "v1.jsonl"


def test_version_1_is_still_read() -> None:
    lines = GOLDEN.read_bytes().splitlines()
    assert len(lines) == len(ENTRIES)
    for line, (expected, epoch, seq, merged) in zip(lines, ENTRIES, strict=True):
        wire = decode(line)
        assert wire.snapshot == expected
        assert (wire.v, wire.epoch, wire.seq, wire.merged) == (1, epoch, seq, merged)


def test_version_1_is_still_written() -> None:
    assert [encode(*entry) for entry in ENTRIES] == GOLDEN.read_bytes().splitlines()


def changed(**fields: Any) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(encode(PLAIN, 1, 1)), **fields})


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a snapshot"),
        (b"[]", "not a snapshot"),
        (b"\xff\xfe", "not a snapshot"),
        (b'{"v":1', "not a snapshot"),
        (changed(v=2), "version 2"),
        (b'{"v":7,"something":"else"}', "version 7"),
        (changed(trader_id=""), "trader_id"),
        (changed(trader_id="x" * 256), "trader_id"),
        (changed(trader_id="a\0b"), "trader_id"),
        (changed(epoch=0), "epoch"),
        (changed(epoch=2**53), "epoch"),
        (changed(seq=2**53 + 1), "seq"),
        (changed(seq=2, merged=2), "merged"),
        (changed(daily_pnl="1"), "daily_pnl"),
        (changed(recorded_at="2026-01-01T00:00:00"), "recorded_at"),
        (changed(recorded_at="1999-12-31T00:00:00Z"), "recorded_at"),
        (changed(recorded_at="2200-01-01T00:00:00Z"), "recorded_at"),
        (changed(daily_pnl=0).replace(b'"daily_pnl":0', b'"daily_pnl":1e999'), "daily_pnl|not a snapshot"),
    ],
)
def test_what_cannot_be_read_says_why(payload: bytes, reason: str) -> None:
    with pytest.raises(InvalidSnapshot, match=reason):
        decode(payload)


def test_unknown_fields_of_the_same_version_are_passed_over() -> None:
    assert isinstance(decode(changed(later="addition")).snapshot, RiskSnapshot)


@pytest.mark.parametrize("recorded_at", ["2000-01-01T00:00:00Z", "2199-12-31T23:59:59.999999Z"])
def test_no_clock_decides_whether_bytes_are_a_snapshot(recorded_at: str) -> None:
    assert decode(changed(recorded_at=recorded_at)).snapshot.recorded_at.year in (2000, 2199)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (changed(reason="x" * 1025), Identity("t1", 1, 1)),
        (changed(daily_pnl="1"), Identity("t1", 1, 1)),
        (changed(recorded_at=None, epoch=7, seq=5, merged=4), Identity("t1", 7, 5, 4)),
        (changed(v=2), Identity("t1", 1, 1)),
        (changed(v="x"), Identity("t1", 1, 1)),
        (changed(seq=2, merged=2), Identity("t1", 1, 2)),
        (changed(merged=-1), Identity("t1", 1, 1)),
        (changed(merged="x"), Identity("t1", 1, 1)),
        (changed(daily_pnl=0).replace(b'"daily_pnl":0', b'"daily_pnl":1e999'), Identity("t1", 1, 1)),
        (changed(trader_id="x" * 256), None),
        (changed(trader_id="a\0"), None),
        (changed(trader_id=7), None),
        (changed(epoch=2**53), None),
        (changed(epoch=0), None),
        (changed(epoch=1.5), None),
        (changed(seq=0), None),
        (changed(seq="1"), None),
        (encode(PLAIN, 1, 1)[:-1], None),
        (b"", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
    ],
)
def test_the_identity_of_what_is_no_snapshot(payload: bytes, expected: Identity | None) -> None:
    with pytest.raises(InvalidSnapshot):
        decode(payload)
    assert identity_of(payload) == expected
