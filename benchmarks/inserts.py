"""The yardsticks' SQL: INSERT into the same tables, with the same promise that a replay changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

HISTORY: Final = """
    INSERT INTO risk_state_history (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    ) VALUES (
        %(trader_id)s, %(epoch)s, %(seq)s, %(recorded_at)s, %(daily_pnl)s, %(drawdown_pct)s,
        %(current_equity)s, %(peak_equity)s, %(trading_paused)s, %(paused_until)s, %(last_reset_time)s,
        %(trace_id)s, %(reason)s
    ) ON CONFLICT DO NOTHING
"""
STATE: Final = """
    INSERT INTO risk_state AS state (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    ) VALUES (
        %(trader_id)s, %(epoch)s, %(seq)s, %(recorded_at)s, %(daily_pnl)s, %(drawdown_pct)s,
        %(current_equity)s, %(peak_equity)s, %(trading_paused)s, %(paused_until)s, %(last_reset_time)s,
        %(trace_id)s, %(reason)s
    ) ON CONFLICT (trader_id) DO UPDATE SET
        epoch = excluded.epoch, seq = excluded.seq, recorded_at = excluded.recorded_at,
        daily_pnl = excluded.daily_pnl, drawdown_pct = excluded.drawdown_pct,
        current_equity = excluded.current_equity, peak_equity = excluded.peak_equity,
        trading_paused = excluded.trading_paused, paused_until = excluded.paused_until,
        last_reset_time = excluded.last_reset_time, trace_id = excluded.trace_id,
        reason = excluded.reason, updated_at = now()
    WHERE (state.epoch, state.seq) < (excluded.epoch, excluded.seq)
"""

Row = Mapping[str, Any]
"""A snapshot as JSON has it; Postgres reads the times."""


def store(db: psycopg.Connection, rows: Sequence[Row]) -> None:
    """One transaction: all of them into history, the newest of each trader into its state."""
    with db.transaction(), db.cursor() as cursor:
        cursor.executemany(HISTORY, rows)
        cursor.executemany(STATE, newest(rows))


async def store_async(db: psycopg.AsyncConnection, rows: Sequence[Row]) -> None:
    """The same."""
    async with db.transaction(), db.cursor() as cursor:
        await cursor.executemany(HISTORY, rows)
        await cursor.executemany(STATE, newest(rows))


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last of each trader."""
    return list({row["trader_id"]: row for row in rows}.values())
