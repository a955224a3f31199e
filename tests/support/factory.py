"""A snapshot in each form that the data path has: a trader's, bytes, on the wire, a stream entry, a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import WireSnapshot, decode, encode
from risk_worker.drain.batch import Row, StreamEntry

START = datetime(2026, 1, 1, tzinfo=UTC)


def snapshot(trader_id: str = "t1", pnl: Any = 0.0, **fields: Any) -> RiskSnapshot:
    """A snapshot that its daily_pnl distinguishes from others; recorded now."""
    return RiskSnapshot(
        **{
            "trader_id": trader_id,
            "daily_pnl": pnl,
            "drawdown_pct": 0.5,
            "current_equity": 99_500.0,
            "peak_equity": 100_000.0,
            "last_reset_time": START,
            **fields,
        }
    )


def payload(trader_id: str, seq: int, *, epoch: int = 1, merged: int = 0, **fields: Any) -> bytes:
    """The bytes of a stream entry, the same for the same arguments; recorded seq seconds after START."""
    made = snapshot(trader_id, float(seq), **{"recorded_at": START + timedelta(seconds=seq), **fields})
    return encode(made, epoch, seq, merged)


def wire(trader_id: str, seq: int, **more: Any) -> WireSnapshot:
    """What the worker reads from payload() with these arguments."""
    return decode(payload(trader_id, seq, **more))


def entry(number: int, data: bytes | None = None) -> StreamEntry:
    """The stream entry with the id "number-0"; data: of trader t1 with that seq, unless given."""
    return StreamEntry(f"{number}-0", payload("t1", number) if data is None else data)


def row(entry_id: str, data: bytes) -> Row:
    """The row that an entry with payload() for its data becomes."""
    return Row(entry_id, data, decode(data))
