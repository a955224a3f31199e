"""The snapshots that all measures use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from risk_producer import RiskSnapshot
from risk_producer.contract import wire
from risk_producer.contract.keys import partition_of

TRADERS = 200
EPOCH = 2  # history.py fills in epoch 1
COLUMNS = (
    "trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity, "
    "peak_equity, trading_paused, paused_until, last_reset_time, merged"
)
"""Of risk_state_history, in the order of copy_text()."""


def trader_id(number: int) -> str:
    """The name of a trader, who has a number from 0 on."""
    return f"trader-{number:03d}"


def snapshot(number: int, traders: int = TRADERS) -> RiskSnapshot:
    """One of a realistic size; the traders take turns."""
    return RiskSnapshot(
        trader_id=trader_id(number % traders),
        daily_pnl=number * 0.25,
        drawdown_pct=1.25,
        current_equity=100_000.0 + number,
        peak_equity=250_000.0,
        trace_id=f"trace-{number}",
        reason="tick",
    )


def payloads(count: int, traders: int = TRADERS) -> list[bytes]:
    """The bytes of `count` stream entries."""
    return [wire.encode(snapshot(number, traders), EPOCH, number // traders + 1) for number in range(count)]


def copy_text(payloads: Sequence[bytes]) -> bytes:
    """The same rows as COPY's text format."""
    lines = []
    for payload in payloads:
        row = wire.decode(payload)
        lines.append(
            f"{row.trader_id}\t{row.recorded_at.isoformat()}\t{row.epoch}\t{row.seq}\t{row.trace_id}\t"
            f"{row.reason}\t{row.daily_pnl}\t{row.drawdown_pct}\t{row.current_equity}\t{row.peak_equity}\t"
            f"f\t\\N\t{row.last_reset_time.isoformat()}\t0\n"
        )
    return "".join(lines).encode()


def split(payloads: Sequence[bytes], partitions: int, traders: int = TRADERS) -> list[list[bytes]]:
    """The payloads of each partition."""
    home = cache(lambda trader: partition_of(trader_id(trader), partitions))
    parts: list[list[bytes]] = [[] for _ in range(partitions)]
    for number, payload in enumerate(payloads):
        parts[home(number % traders)].append(payload)
    return parts
