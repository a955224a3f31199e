"""What one gap costs `riskstream verify`. python -m benchmarks.verify_gap [--rows 1000000] [--runs 5]"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median
from time import perf_counter

import psycopg

from benchmarks.servers import Servers

_FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time
    )
    SELECT 'a', '2026-01-01'::timestamptz + seq * interval '1 second', 1, seq, 0, 0, 0, 0, false, '2026-01-01'
    FROM generate_series(1, %(rows)s) AS seq WHERE {}
"""
_STATE = """
    INSERT INTO risk_state (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, last_reset_time
    )
    SELECT trader_id, epoch, seq, recorded_at, 0, 0, 0, 0, false, last_reset_time
    FROM risk_state_history ORDER BY recorded_at DESC LIMIT 1
"""
SHAPES = {"no gap": "true", "one gap": "seq <> %(rows)s / 2", "every second missing": "seq %% 2 = 0"}


def main() -> None:
    """Print a table of seconds: the whole command, as a person waits for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify_gap")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {shape: [] for shape in SHAPES}
    with Servers() as servers:
        for number, condition in enumerate(SHAPES.values()):
            servers.sql("CREATE DATABASE {} TEMPLATE {}", f"gap_{number}", "migrated")
            with psycopg.connect(servers.postgres.url_of(f"gap_{number}"), autocommit=True) as db:
                db.execute(_FILL.format(condition).encode(), {"rows": arguments.rows})
                db.execute(_STATE)
                db.execute("VACUUM (FREEZE, ANALYZE)")
        for _ in range(arguments.runs):
            for number, shape in enumerate(SHAPES):
                seconds[shape].append(_verify(servers, f"gap_{number}"))
    print(f"{arguments.rows:,} seq numbers of one epoch, median of {arguments.runs} runs")
    for shape, times in seconds.items():
        ratio = median(times) / median(seconds["no gap"])
        print(f"{shape:<22}{median(times):8.2f} s  ({min(times):.2f} to {max(times):.2f}){ratio:8.2f} x")


def _verify(servers: Servers, database: str) -> float:
    environ = {
        **os.environ,
        "REDIS_URL": servers.valkey.url,
        "POSTGRES_URL": servers.postgres.url_of(database),
    }
    began = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "risk_worker", "verify", "--json", "--trader", "a"],
        env=environ,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return perf_counter() - began


if __name__ == "__main__":
    main()
