"""A week of 20 traders in one database for all tests here, which only read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from risk_worker.database import migrations
from tests.support.servers import Databases

START = datetime(2026, 11, 16, tzinfo=UTC)
"""A Monday."""
# A row of each trader every two minutes, in the order of their arrival. A pause has 40 rows, of which the
# first has the reason. Epochs end in the midst of some. Rows 2,300 to 2,340 are stored three hours late.
# trader-18 has one row, trader-19 is paused from the first on, trader-17 at the end. Every 500th row has the
# recorded_at of the row before.
FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, merged, stored_at
    )
    SELECT 'trader-' || lpad(trader::text, 2, '0'), at, 1 + n / 777, 1 + n % 777,
           CASE WHEN paused AND (n + 60 * trader) % 280 = 120 THEN 'limit ' || n ELSE '' END, 'trace-' || n,
           100 * sin(n / 50.0 + trader), round((5 + 5 * cos(n / 70.0 + trader))::numeric, 1),
           100000 + 100 * sin(n / 50.0 + trader), 101000, paused,
           CASE WHEN paused THEN at + interval '1 hour' END,
           date_trunc('day', at, 'UTC'), 0,
           at + CASE WHEN n BETWEEN 2300 AND 2340 THEN interval '3 hours' ELSE interval '1 second' END
    FROM generate_series(0, 4999) AS n, generate_series(0, 19) AS trader,
    LATERAL (
        SELECT timestamptz '2026-11-16Z' + interval '2 minutes' * (n - (n % 500 = 499)::int)
                   + interval '1 ms' * trader AS at,
               CASE trader WHEN 19 THEN true
                   WHEN 17 THEN n >= 4990 ELSE (n + 60 * trader) % 280 BETWEEN 120 AND 159 END AS paused
    ) AS more
    WHERE trader <> 18 OR n = 100
    ORDER BY 15, 1, 3, 4
"""
STATES = """
    INSERT INTO risk_state (
        trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, updated_at
    )
    SELECT DISTINCT ON (trader_id)
        trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, stored_at
    FROM risk_state_history ORDER BY trader_id, epoch DESC, seq DESC
"""
COMPRESS = """
    ALTER TABLE risk_state_history SET (
        timescaledb.compress, timescaledb.compress_segmentby = 'trader_id',
        timescaledb.compress_orderby = 'recorded_at DESC, epoch DESC, seq DESC'
    );
    SELECT compress_chunk(show_chunks('risk_state_history'));
"""


@dataclass(frozen=True)
class Week:
    """The database, and its rows by trader, in the order of their time."""

    url: str
    rows: dict[str, list[Any]]


@pytest.fixture(scope="module", params=["plain", "hypertable", "compressed"])
def week(request: pytest.FixtureRequest) -> Iterator[Week]:
    if request.param == "plain":
        databases = request.getfixturevalue("databases")
        url = databases.create(request.getfixturevalue("migrated_template"))
    else:
        server = os.environ.get("TEST_TIMESCALE_URL")
        if server is None:
            pytest.skip("TEST_TIMESCALE_URL is not set: no package brings TimescaleDB along")
        databases = Databases(server)
        url = databases.create()
        migrations.up(url)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET timezone = 'UTC'")
        db.execute(FILL.encode())
        db.execute(STATES.encode())
        if request.param == "compressed":
            db.execute(COMPRESS.encode())
        db.execute("VACUUM (ANALYZE) risk_state_history")
        db.execute("ANALYZE risk_state")
        with db.cursor(row_factory=namedtuple_row) as cursor:
            cursor.execute("SELECT * FROM risk_state_history ORDER BY trader_id, recorded_at, epoch, seq")
            found: list[Any] = list(cursor)
        rows = {trader: list(each) for trader, each in groupby(found, key=lambda row: row.trader_id)}
    yield Week(url, rows)
    databases.drop(url)
