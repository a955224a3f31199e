"""A database that has stored much already."""

from __future__ import annotations

import psycopg

from benchmarks.rows import TRADERS
from benchmarks.servers import MIGRATED, Servers

# In the order in which they would have come: the traders take turns. A second apart, the last a day ago.
_FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time
    )
    SELECT
        'trader-' || lpad(trader::text, 3, '0'),
        now() - interval '1 day' - (%(rounds)s - seq) * interval '1 second',
        1, seq, 'trace-' || seq * %(traders)s + trader, 'tick', seq * 0.25, 1.25, 100000.0 + seq, 250000.0,
        false, NULL, date_trunc('day', now() - interval '1 day' - (%(rounds)s - seq) * interval '1 second')
    FROM generate_series(1, %(rounds)s) AS seq, generate_series(0, %(traders)s - 1) AS trader
"""
_STATE = """
    INSERT INTO risk_state (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    )
    SELECT DISTINCT ON (trader_id)
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    FROM risk_state_history ORDER BY trader_id, seq DESC
"""


def filled(servers: Servers, rows: int) -> str:
    """The name of a new database with so many rows in history, to be used as a template."""
    name = f"history_{rows}"
    servers.sql("CREATE DATABASE {} TEMPLATE {}", name, MIGRATED)
    with psycopg.connect(servers.postgres.url_of(name), autocommit=True) as db:
        if rows:
            db.execute(_FILL, {"rounds": rows // TRADERS, "traders": TRADERS})
            db.execute(_STATE)
        db.execute("VACUUM (FREEZE, ANALYZE)")
        db.execute("CHECKPOINT")
    return name
