"""History of many days, as it would have been stored day by day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time, stored_at
    )
    SELECT trader, recorded_at, 7, n, n * 37 %% 11 - 5, n %% 7, 100 + n * 53 %% 17, 200, n %% 3 = 0,
        recorded_at, coalesce(%(stored_at)s, recorded_at + interval '1 s')
    FROM (
        SELECT n, trader, %(begin)s::timestamptz + (n - 1) * interval '1 day' / %(a_day)s AS recorded_at
        FROM generate_series(1, %(days)s * %(a_day)s) AS n, unnest(%(traders)s::text[]) AS trader
    ) AS made
    ORDER BY recorded_at
"""


def fill(
    url: str,
    traders: Sequence[str],
    begin: datetime,
    days: int,
    *,
    a_day: int = 4,
    stored_at: datetime | None = None,
) -> int:
    """Rows of each trader, so many a day, stored a second after they were recorded, or all at one time.

    Returns how many.
    """
    with psycopg.connect(url) as db:
        asked = {
            "traders": list(traders),
            "begin": begin,
            "days": days,
            "a_day": a_day,
            "stored_at": stored_at,
        }
        return db.execute(FILL, asked).rowcount
