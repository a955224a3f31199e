"""The columns of a history row: their names and types, once. Tests compare all that must agree with them."""

from __future__ import annotations

from typing import Final

COLUMNS: Final = {
    "trader_id": "text",
    "epoch": "int8",
    "seq": "int8",
    "recorded_at": "timestamptz",
    "daily_pnl": "float8",
    "drawdown_pct": "float8",
    "current_equity": "float8",
    "peak_equity": "float8",
    "trading_paused": "bool",
    "paused_until": "timestamptz",
    "last_reset_time": "timestamptz",
    "trace_id": "text",
    "reason": "text",
    "merged": "int4",
}
"""Column of risk_state_history -> its type, in the order of COPY; without what the database fills in."""
