"""The state that Postgres stores, for load(). Needs psycopg, which the trader's part does not bring."""

from __future__ import annotations

from typing import Final

from risk_producer.wire import VERSION, WireSnapshot

CONNECT_TIMEOUT_S: Final = 3
ANSWER_TIMEOUT_MS: Final = 3_000

_QUERY: Final = """
    SELECT trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
           trading_paused, paused_until, last_reset_time, trace_id, reason
    FROM risk_state
    WHERE trader_id = %s
"""


class PostgresUnavailable(Exception):
    """Postgres cannot be asked; the message says why, without a password."""


def fetch(database_url: str, trader_id: str) -> WireSnapshot | None:
    """The row of risk_state; None: there is none. Raises PostgresUnavailable."""
    try:
        import psycopg
        from psycopg.rows import dict_row
    except ImportError:
        raise PostgresUnavailable(
            "psycopg is not installed; run: pip install 'psycopg[binary]', or leave the database's URL out"
        ) from None
    try:
        with psycopg.connect(
            database_url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=f"-c statement_timeout={ANSWER_TIMEOUT_MS} -c timezone=UTC",
            row_factory=dict_row,
        ) as connection:
            row = connection.execute(_QUERY, (trader_id,)).fetchone()
    except psycopg.Error as error:
        raise PostgresUnavailable(f"{type(error).__name__}: {str(error).strip()}") from None
    return None if row is None else WireSnapshot(v=VERSION, **row)
