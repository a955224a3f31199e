"""How long the questions take in a history of 10 million rows: `python -m benchmarks.questions`.

History is filled in the order in which the rows would arrive: 200 traders, a row of each every --every
seconds, the newest now. Then each question is asked several times, as its command
does, and each view.
The goal is a second for each. It wants a quiet machine, and 3 GB of disk.

    python -m benchmarks.questions                                     an embedded Postgres: some 10 minutes
    python -m benchmarks.questions --rows 1000000
    python -m benchmarks.questions --url postgresql://…                another server's TimescaleDB
    python -m benchmarks.questions --url postgresql://… --compress     and all chunks compressed
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, Final

import psycopg

from benchmarks.servers import database
from risk_worker.database import migrations
from risk_worker.query.question import Question
from risk_worker.query.questions import (
    AsOf,
    Curve,
    Drawdown,
    Export,
    History,
    Pauses,
    Pnl,
    Stale,
    State,
)
from risk_worker.query.reader import RiskReader

TRADERS: Final = 200
T: Final = "trader-042"
_PIECE: Final = 1_000_000
# A pause of 40 rows in 1,000; the first has the reason. n counts the rows of a trader.
_FILL: Final = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, merged, stored_at
    )
    SELECT 'trader-' || lpad(trader::text, 3, '0'), at, 1 + n / 100000, 1 + n %% 100000,
           CASE WHEN (n + 37 * trader) %% 1000 = 500 THEN 'drawdown over the limit' ELSE '' END,
           'trace-' || n,
           100 * sin(n / 500.0 + trader), 5 + 5 * cos(n / 700.0 + trader),
           100000 + 100 * sin(n / 500.0 + trader), 101000, (n + 37 * trader) %% 1000 BETWEEN 500 AND 539,
           NULL, date_trunc('day', at, 'UTC'), 0, at
    FROM (
        SELECT i / %(traders)s AS n, i %% %(traders)s AS trader,
               %(end)s::timestamptz - %(every)s * (%(rows)s - i) / %(traders)s * interval '1 s' AS at
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
    ) AS each
"""
_STATES: Final = """
    INSERT INTO risk_state (
        trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, updated_at
    )
    SELECT trader_id, recorded_at, epoch, seq, reason, trace_id, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, stored_at
    FROM generate_series(0, %(traders)s - 1) AS trader,
    LATERAL (
        SELECT * FROM risk_state_history WHERE trader_id = 'trader-' || lpad(trader::text, 3, '0')
        ORDER BY recorded_at DESC, epoch DESC, seq DESC LIMIT 1
    ) AS newest
"""
VIEWS: Final = {
    "risk_pauses of T": f"SELECT * FROM risk_pauses WHERE trader_id = '{T}' ORDER BY since",
    "risk_pauses of T, 1 day": (
        f"SELECT * FROM risk_pauses WHERE trader_id = '{T}' AND since >= now() - interval '1 day'"
    ),
    "risk_pauses of all, 1 day": "SELECT * FROM risk_pauses WHERE since >= now() - interval '1 day'",
    "risk_pauses of all": "SELECT * FROM risk_pauses",
    "risk_silence": "SELECT * FROM risk_silence WHERE silent_s > 300",
    "risk_daily of T": f"SELECT * FROM risk_daily WHERE trader_id = '{T}' ORDER BY bucket",
    "risk_daily of all, 7 days": "SELECT * FROM risk_daily WHERE bucket >= now() - interval '7 days'",
}
"""What a dashboard would ask, with the settings of any session."""
_COMPRESS: Final = """
    ALTER TABLE risk_state_history SET (
        timescaledb.compress, timescaledb.compress_segmentby = 'trader_id',
        timescaledb.compress_orderby = 'recorded_at DESC, epoch DESC, seq DESC'
    );
    SELECT compress_chunk(show_chunks('risk_state_history'));
"""


def questions() -> dict[str, Question[Any]]:
    """What is asked, as on the command line -> the question."""
    return {
        "state": State(),
        "state T": State(T),
        "history T --last 100": History(T, last=100),
        "history T --since 1d": History(T, since="1d"),
        "history UNKNOWN": History("unknown"),
        "asof '7d ago'": AsOf("7d ago"),
        "asof '7d ago' T": AsOf("7d ago", T),
        "asof '2h ago' --known-at '1h ago'": AsOf("2h ago", known_at="1h ago"),
        "curve T --bucket 5m --since 1d": Curve(T, "5m", since="1d"),
        "curve T --bucket 1h --since 7d": Curve(T, "1h", since="7d"),
        "drawdown --day yesterday": Drawdown("yesterday"),
        "pauses": Pauses(),
        "pauses --since 1d": Pauses(since="1d"),
        "pauses T --since 30d": Pauses(T, since="30d"),
        "pnl --week": Pnl(),
        "stale": Stale(),
        "export T --since 1d": Export(T, since="1d"),
    }


def fill(url: str, rows: int, every_s: float, *, compress: bool) -> None:
    """Migrate a database, and fill it."""
    migrations.up(url)
    with psycopg.connect(url, autocommit=True) as db:
        [(end,)] = db.execute("SELECT now()").fetchall()
        words = {"end": end, "every": every_s, "rows": rows, "traders": TRADERS}
        for first in range(0, rows, _PIECE):
            db.execute(_FILL.encode(), {**words, "first": first, "last": min(first + _PIECE, rows) - 1})
            print(f"{min(first + _PIECE, rows):,} rows", flush=True)
        db.execute(_STATES.encode(), words)
        if compress:
            db.execute(_COMPRESS.encode())
        db.execute("VACUUM (ANALYZE)")
        db.execute("CHECKPOINT")


def measure(url: str, times: int) -> dict[str, dict[str, float]]:
    """Each question and view: rows; seconds of the first time, the median, until the first row."""
    reader = RiskReader(url, timeout_s=600)
    asked: dict[str, Callable[[], Iterable[Any]]] = {
        name: partial(reader.ask, question) for name, question in questions().items()
    }
    with psycopg.connect(url, autocommit=True) as db:
        asked |= {name: partial(_rows, db, query) for name, query in VIEWS.items()}
        return _measure(asked, times)


def _rows(db: psycopg.Connection, query: str) -> Iterator[Any]:
    yield from db.execute(query.encode())


def _measure(asked: Mapping[str, Callable[[], Iterable[Any]]], times: int) -> dict[str, dict[str, float]]:
    found = {}
    for name, ask in asked.items():
        seconds, first = [], []
        count = 0
        for _ in range(times):
            began = perf_counter()
            rows = iter(ask())
            count = int(next(rows, None) is not None)
            first.append(perf_counter() - began)
            count += sum(1 for _ in rows)
            seconds.append(perf_counter() - began)
        found[name] = {
            "rows": count,
            "first_time_s": seconds[0],
            "median_s": median(seconds),
            "first_row_s": median(first),
        }
    return found


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.questions", description="How long the questions take."
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two rows of a trader")
    parser.add_argument("--times", type=int, default=5, help="that each is asked")
    parser.add_argument("--url", help="a server on which to make a database; without it an embedded Postgres")
    parser.add_argument("--compress", action="store_true", help="with TimescaleDB: compress all chunks")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with database(arguments.url, "risk_questions") as url:
        began = perf_counter()
        fill(url, arguments.rows, arguments.every, compress=arguments.compress)
        print(f"filled in {perf_counter() - began:.0f} s", flush=True)
        found = measure(url, arguments.times)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print("| question | rows | ms | ms, first time | ms to the first row |")
    print("|---|---|---|---|---|")
    for name, each in found.items():
        cells = (each["median_s"], each["first_time_s"], each["first_row_s"])
        print(f"| {name} | {each['rows']:,.0f} | " + " | ".join(f"{1000 * s:,.0f}" for s in cells) + " |")


if __name__ == "__main__":
    main()
