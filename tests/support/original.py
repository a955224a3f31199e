"""The tables of the system that riskstream replaces, with rows."""

from __future__ import annotations

from typing import LiteralString

TABLES: LiteralString = """
    CREATE TABLE risk_state (
        trader_id text PRIMARY KEY, daily_pnl double precision NOT NULL DEFAULT 0,
        drawdown_pct double precision NOT NULL DEFAULT 0, current_equity double precision NOT NULL DEFAULT 0,
        peak_equity double precision NOT NULL DEFAULT 0, trading_paused boolean NOT NULL DEFAULT false,
        paused_until timestamptz, last_reset_time timestamptz, updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE risk_state_history (
        id bigserial, trader_id text NOT NULL, trace_id text, reason text,
        daily_pnl double precision NOT NULL,
        drawdown_pct double precision NOT NULL, current_equity double precision NOT NULL,
        peak_equity double precision NOT NULL, trading_paused boolean NOT NULL, paused_until timestamptz,
        last_reset_time timestamptz, recorded_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (id, recorded_at)
    );
    CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);
"""
ROWS: LiteralString = """
    INSERT INTO schema_migrations VALUES (2, false);
    INSERT INTO risk_state_history (
        trader_id, reason, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused, recorded_at
    ) SELECT 'old-' || n % 3, repeat('x', 2000), n, 1, 2, 3, n % 2 = 0,
             '2026-01-01'::timestamptz + n * interval '1 s'
      FROM generate_series(1, 30) AS n;
    INSERT INTO risk_state (trader_id, current_equity, trading_paused)
        VALUES ('old-0', 77, true), ('old-1', 78, false), ('old-2', 79, false), ('state only', 80, true);
"""
