"""The wire contract: what one stream entry holds.

An entry has one field, ``s``: a JSON object that a person can read with ``redis-cli XRANGE``. Its ``v`` is
the version. A worker reads every version ever released; tests/golden/ keeps a file of each.

Version 1: the fields of RiskSnapshot, plus ``epoch`` and ``seq`` (the identity, see docs/architecture.md)
and, only where it is not 0, ``merged``: how many snapshots of the same trader were conflated into this one.
Those had the seq numbers just before it, seq-merged .. seq-1. In every version the identity has these names:
trader_id, epoch, seq, merged.

Whether bytes are a snapshot depends on the bytes alone: no clock is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from risk_producer.contract.snapshot import (
    REASON_MAX,
    RECORDED_AT_END,
    RECORDED_AT_MIN,
    TRACE_ID_MAX,
    TRADER_ID_MAX,
    RiskSnapshot,
    check_recorded_at,
    check_text,
)
from risk_producer.errors import InvalidSnapshot

FIELD: Final = b"s"
VERSION: Final = 1

EPOCH_MAX: Final = 2**53 - 1
"""Redis' scripts count in doubles, which hold every integer up to 2**53."""
SEQ_MAX: Final = 2**53

_INT_MAX: Final = 2**31 - 1

_Time = Annotated[datetime, Meta(tz=True)]
_TraderId = Annotated[str, Meta(min_length=1, max_length=TRADER_ID_MAX)]
_Epoch = Annotated[int, Meta(ge=1, le=EPOCH_MAX)]
_Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]
_Merged = Annotated[int, Meta(ge=0, le=_INT_MAX)]


class WireSnapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A snapshot with its identity, as read from the stream or from the latest-state hash."""

    v: int
    trader_id: _TraderId
    epoch: _Epoch
    seq: _Seq
    recorded_at: _Time
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool
    paused_until: _Time | None
    last_reset_time: _Time
    trace_id: Annotated[str, Meta(max_length=TRACE_ID_MAX)] = ""
    reason: Annotated[str, Meta(max_length=REASON_MAX)] = ""
    merged: _Merged = 0

    @property
    def snapshot(self) -> RiskSnapshot:
        """The trader's part, without the identity."""
        return RiskSnapshot(
            trader_id=self.trader_id,
            daily_pnl=self.daily_pnl,
            drawdown_pct=self.drawdown_pct,
            current_equity=self.current_equity,
            peak_equity=self.peak_equity,
            trading_paused=self.trading_paused,
            paused_until=self.paused_until,
            last_reset_time=self.last_reset_time,
            recorded_at=self.recorded_at,
            trace_id=self.trace_id,
            reason=self.reason,
        )


class _Written(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Version 1 in the order a person wants to read it; only ``merged`` may be left out."""

    v: int
    trader_id: str
    epoch: int
    seq: int
    recorded_at: datetime
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool
    paused_until: datetime | None
    last_reset_time: datetime
    trace_id: str
    reason: str
    merged: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(WireSnapshot)


def encode(
    snapshot: RiskSnapshot, epoch: int, seq: int, merged: int = 0, reset: datetime | None = None
) -> bytes:
    """The bytes of field ``s`` for a snapshot under its identity.

    reset: the last_reset_time of a snapshot that has none; None: its recorded_at.
    """
    return _encoder.encode(
        _Written(
            VERSION,
            snapshot.trader_id,
            epoch,
            seq,
            snapshot.recorded_at,
            snapshot.daily_pnl,
            snapshot.drawdown_pct,
            snapshot.current_equity,
            snapshot.peak_equity,
            snapshot.trading_paused,
            snapshot.paused_until,
            snapshot.last_reset_time or reset or snapshot.recorded_at,
            snapshot.trace_id,
            snapshot.reason,
            merged,
        )
    )


def decode(payload: bytes) -> WireSnapshot:
    """The snapshot in the bytes of field ``s``.

    Any program may have written them, so every rule of RiskSnapshot is checked again.
    Raises InvalidSnapshot with the reason.
    """
    try:
        wire = _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise InvalidSnapshot(_reason(payload, error)) from None
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InvalidSnapshot(f"not a snapshot: {error}") from None
    if wire.v != VERSION:
        raise InvalidSnapshot(f"wire version {wire.v} is not known here; this program reads up to {VERSION}")
    if not payload.isascii() or b"\\u0000" in payload:
        check_text("trader_id", wire.trader_id, TRADER_ID_MAX, least=1)
        check_text("trace_id", wire.trace_id, TRACE_ID_MAX)
        check_text("reason", wire.reason, REASON_MAX)
    if not isfinite(wire.daily_pnl + wire.drawdown_pct + wire.current_equity + wire.peak_equity):
        for name in ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity"):
            if not isfinite(getattr(wire, name)):
                raise InvalidSnapshot(f"{name} must be a finite number")
    if wire.merged >= wire.seq:
        raise InvalidSnapshot(f"merged is {wire.merged}, but only {wire.seq - 1} snapshots came before")
    check_recorded_at(wire.recorded_at)
    if wire.last_reset_time.tzinfo is not UTC:
        _check_time("last_reset_time", wire.last_reset_time)
    if wire.paused_until is not None and wire.paused_until.tzinfo is not UTC:
        _check_time("paused_until", wire.paused_until)
    return wire


def decode_all(payloads: Sequence[bytes]) -> list[WireSnapshot] | None:
    """decode() of each; None: some have to be looked at one by one, as decode() does.

    It takes what producers write, and never refuses: the rules are asked of many payloads at once, which
    costs half of asking them of each.
    """
    try:
        found = list(map(_decoder.decode, payloads))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return None
    if not all(map(bytes.isascii, payloads)) or any(b"\\" in each for each in payloads):
        return None
    for s in found:  # their numbers are finite: JSON has no others, and the decoder refuses what overflows
        if (
            s.v != VERSION
            or s.merged >= s.seq
            or not RECORDED_AT_MIN <= s.recorded_at < RECORDED_AT_END
            or s.last_reset_time.tzinfo is not UTC
            or (s.paused_until is not None and s.paused_until.tzinfo is not UTC)
        ):
            return None
    return found


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Which snapshot an entry is, whatever is wrong with the rest of it."""

    trader_id: _TraderId
    epoch: _Epoch
    seq: _Seq
    merged: int = 0


class _Identified(msgspec.Struct):
    trader_id: _TraderId
    epoch: _Epoch
    seq: _Seq
    merged: msgspec.Raw = msgspec.Raw(b"0")


def identity_of(payload: bytes) -> Identity | None:
    """The identity in bytes that decode() refuses; None: trader_id, epoch or seq cannot be read.

    A merged that cannot be right counts as 0: the entry stands for its own seq at least.
    """
    try:
        found = msgspec.json.decode(payload, type=_Identified)
        check_text("trader_id", found.trader_id, TRADER_ID_MAX, least=1)
    except (msgspec.MsgspecError, InvalidSnapshot, UnicodeDecodeError, RecursionError):
        return None
    try:
        merged = msgspec.json.decode(found.merged, type=_Merged)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        merged = 0
    return Identity(found.trader_id, found.epoch, found.seq, merged if merged < found.seq else 0)


def _check_time(name: str, value: datetime) -> None:
    """Refuse what is no year of 1 to 9999 in UTC: Postgres would take it, and no Python read it again."""
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise InvalidSnapshot(f"{name} is out of range: {value.isoformat()}") from None


class _Versioned(msgspec.Struct):
    v: int


def _reason(payload: bytes, error: msgspec.MsgspecError) -> str:
    """A newer version's entry may fail on its fields before its number is seen: name the version first."""
    try:
        version = msgspec.json.decode(payload, type=_Versioned).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"not a snapshot: {error}"
    if version != VERSION:
        return f"wire version {version} is not known here; this program reads up to {VERSION}"
    return f"not a snapshot: {error}"


class _WithEpoch(msgspec.Struct):
    epoch: int


_epoch_decoder = msgspec.json.Decoder(_WithEpoch)


def epoch_in(payload: bytes | None) -> int | None:
    """The epoch in a payload; None where there is none, or it cannot be read."""
    try:
        return None if payload is None else _epoch_decoder.decode(payload).epoch
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
