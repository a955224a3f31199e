"""The wire contract: whatever is written is read, and bytes of any kind are a snapshot or InvalidSnapshot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from risk_producer import InvalidSnapshot
from risk_producer.contract.wire import EPOCH_MAX, SEQ_MAX, Identity, decode, encode, identity_of
from tests.golden.make import PAUSED
from tests.support.factory import snapshot

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    trader_id=texts.filter(lambda text: 1 <= len(text) <= 255),
    pnl=numbers,
    reason=texts,
    paused=st.booleans(),
    epoch=st.integers(1, EPOCH_MAX),
    seq=st.integers(1, SEQ_MAX),
)
def test_what_is_written_is_read(
    trader_id: str, pnl: float, reason: str, paused: bool, epoch: int, seq: int
) -> None:
    sent = snapshot(trader_id, pnl, reason=reason, trading_paused=paused)
    wire = decode(encode(sent, epoch, seq, merged=min(seq - 1, 7)))
    assert wire.snapshot == sent
    assert (wire.epoch, wire.seq, wire.merged) == (epoch, seq, min(seq - 1, 7))


def damaged(at: int, by: bytes) -> bytes:
    """A snapshot of which some bytes are others."""
    whole = encode(PAUSED, 7, 9, 2)
    return whole[:at] + by + whole[at + len(by) :]


@given(st.binary(max_size=400) | st.builds(damaged, st.integers(0, 400), st.binary(min_size=1, max_size=3)))
def test_bytes_of_any_kind_raise_nothing_else(payload: bytes) -> None:
    identity = identity_of(payload)
    try:
        wire = decode(payload)
    except InvalidSnapshot:
        return
    assert identity == Identity(wire.trader_id, wire.epoch, wire.seq, wire.merged)
    assert decode(encode(wire.snapshot, wire.epoch, wire.seq, wire.merged)).snapshot == wire.snapshot
