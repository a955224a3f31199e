"""How long `riskstream verify` takes as what is sealed grows: `python -m benchmarks.verify_sealed`.

200 traders, 8,760 hours (a year), the rows of each hour sealed, and 100,000 rows that are not. History is
filled by SQL, and the seals too (their digests are of nothing, which verify does not look at). 50 million
rows take 20 GB of disk and half an hour to fill: --rows 1000000 10000000 50000000. With --deep as many as the
first number are sealed by a sealer and read again by `seal verify --deep`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import psutil  # type: ignore[import-untyped]
import psycopg

from benchmarks.plot import draw_verify
from benchmarks.rows import TRADERS
from benchmarks.servers import MIGRATED, Servers
from risk_producer.contract.keys import Keys
from risk_worker.seal.sealer import WINDOWS, Sealer

HOURS: Final = 8_760
TAIL: Final = 100_000
AT_ONCE: Final = 1_000_000
# The last of these hours ended some hours ago; what is not sealed was stored within the last of them.
_ROWS: Final = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, last_reset_time, stored_at
    )
    SELECT 'trader-' || lpad((n %% %(traders)s)::text, 3, '0'), stored_at, 1, n / %(traders)s + 1,
        'trace-' || n, 'tick', n * 0.25, 1.25, 100000.0 + n, 250000.0, false, date_trunc('day', stored_at),
        stored_at
    FROM (
        SELECT n, CASE WHEN n < %(rows)s THEN
            date_trunc('hour', now()) - (%(hours)s + 3) * interval '1 hour'
                + n * (%(hours)s * interval '1 hour' / %(rows)s)
            ELSE now() - (%(rows)s + %(tail)s - n) * interval '1 ms' END AS stored_at
        FROM generate_series(%(first)s::bigint, %(last)s) AS n
    ) AS made
"""
_STATE: Final = """
    INSERT INTO risk_state (
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    )
    SELECT DISTINCT ON (trader_id)
        trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
        trading_paused, paused_until, last_reset_time, trace_id, reason
    FROM risk_state_history
    WHERE recorded_at > now() - interval '1 hour' ORDER BY trader_id, seq DESC
"""
_LEAVES: Final = """
    INSERT INTO risk_seal (run, trader_id, epoch, day, rows, merged, covered, digest)
    SELECT run, trader_id, 1, day, count(*), 0, int8multirange(int8range(min(seq), max(seq) + 1)),
        sha256('')
    FROM (
        SELECT trader_id, seq, (recorded_at AT TIME ZONE 'UTC')::date AS day, %(hours)s + 4
            + floor(extract(epoch FROM stored_at - date_trunc('hour', now())) / 3600)::bigint AS run
        FROM risk_state_history WHERE stored_at < now() - interval '1 hour'
    ) AS sealed
    GROUP BY run, trader_id, day
"""
_RUNS: Final = """
    INSERT INTO risk_seal_run (number, version, kind, from_at, until_at, leaves, rows, digest, previous, head)
    SELECT number, 1, 'sealed',
        CASE number WHEN 1 THEN '-infinity' ELSE began + (number - 1) * interval '1 hour' END,
        began + number * interval '1 hour', 0, 0, sha256(''), sha256(''), sha256('')
    FROM generate_series(1, %(hours)s) AS number,
        (SELECT date_trunc('hour', now()) - (%(hours)s + 3) * interval '1 hour' AS began) AS times
"""
_TOTALS: Final = """
    INSERT INTO risk_epoch_total (trader_id, epoch, rows, merged, covered)
    SELECT trader_id, epoch, sums.rows, 0, covers.covered
    FROM (SELECT trader_id, epoch, sum(rows) AS rows FROM risk_seal GROUP BY trader_id, epoch) AS sums
    JOIN (
        SELECT trader_id, epoch, range_agg(part) AS covered
        FROM risk_seal, unnest(covered) AS part GROUP BY trader_id, epoch
    ) AS covers USING (trader_id, epoch)
"""
_MARK: Final = "UPDATE risk_seal_mark SET closed_until = (SELECT max(until_at) FROM risk_seal_run)"


def filled(servers: Servers, rows: int, *, sealed: bool = True) -> str:
    """The URL of a new database with so many sealed rows, and TAIL that are not."""
    name = f"sealed_{rows}_{'sql' if sealed else 'sealer'}"
    servers.sql("CREATE DATABASE {} TEMPLATE {}", name, MIGRATED)
    url = servers.postgres.url_of(name)
    words = {"rows": rows, "tail": TAIL, "traders": TRADERS, "hours": HOURS}
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "SET synchronous_commit = off; SET session_replication_role = replica; SET work_mem = '256MB'"
        )
        for first in range(0, rows + TAIL, AT_ONCE):
            db.execute(_ROWS, {**words, "first": first, "last": min(first + AT_ONCE, rows + TAIL) - 1})
        db.execute(_STATE)
        if sealed:
            for statement in (_LEAVES, _RUNS, _TOTALS, _MARK):
                db.execute(statement.encode(), words if "%(" in statement else None)
        db.execute("VACUUM (FREEZE, ANALYZE)")
        db.execute("CHECKPOINT")
    return url


def timed(servers: Servers, url: str, *arguments: str) -> tuple[float, float]:
    """(seconds, most memory in MB) of a command; the time is that of a person who waits for it."""
    environ = {**os.environ, "REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
    began = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "risk_worker", *arguments], env=environ, stdout=subprocess.DEVNULL
    )
    highest = [0.0]
    over = threading.Event()

    def watch() -> None:
        watched = psutil.Process(process.pid)
        while not over.wait(0.02):
            try:
                highest[0] = max(highest[0], watched.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                return

    thread = threading.Thread(target=watch)
    thread.start()
    status = process.wait()
    took = perf_counter() - began
    over.set()
    thread.join()
    if status:
        raise RuntimeError(f"{arguments} ended with {status}")
    return took, highest[0]


def main() -> None:
    """Print a table of seconds, and each one's ratio to the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify_sealed")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--deep", action="store_true", help="also seal and read again the first number of rows"
    )
    parser.add_argument("--png", type=Path, help="also draw it into this file")
    arguments = parser.parse_args()
    with Servers() as servers:
        urls: dict[int, str] = {}
        measured: dict[int, list[tuple[float, float]]] = {}
        for rows in arguments.rows:
            began = perf_counter()
            urls[rows] = filled(servers, rows)
            print(f"{rows:,} rows filled in {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        most = (max(arguments.rows) + TAIL) // TRADERS
        for rows in arguments.rows * arguments.runs:  # in turns
            admitted = {f"1:trader-{n:03d}": (rows + TAIL - 1 - n) // TRADERS + 1 for n in range(TRADERS)}
            assert max(admitted.values()) <= most
            servers.empty()
            servers.redis.hset(Keys(0).admitted, mapping=admitted)
            measured.setdefault(rows, []).append(timed(servers, urls[rows], "verify", "--json"))
        first = median(took for took, _ in measured[arguments.rows[0]])
        print(f"{TAIL:,} rows not sealed, {TRADERS} traders, {HOURS:,} runs; median of {arguments.runs} runs")
        print(f"{'sealed rows':>12}{'seconds':>10}{'':>16}{'to the first':>14}{'MB':>8}")
        for rows in arguments.rows:
            times = [took for took, _ in measured[rows]]
            print(
                f"{rows:>12,}{median(times):>10.2f}  ({min(times):.2f} to {max(times):.2f})"
                f"{median(times) / first:>10.2f}{max(memory for _, memory in measured[rows]):>12.0f}"
            )
        if arguments.png is not None:
            draw_verify({rows: [took for took, _ in of] for rows, of in measured.items()}, arguments.png)
        if arguments.deep:
            deep(servers, arguments.rows[0])


def deep(servers: Servers, rows: int) -> None:
    """Seal by a sealer, in windows of a day, and read again."""
    url = filled(servers, rows, sealed=False)
    began = perf_counter()
    with Sealer(url, WINDOWS["1d"]) as sealer:
        sealed = sum(run.rows for run in sealer.seal())
    took = perf_counter() - began
    print(f"sealed {sealed:,} rows in {took:.1f} s: {sealed / took:,.0f} rows/s")
    for arguments in (("seal", "verify"), ("seal", "verify", "--deep")):
        took, memory = timed(servers, url, *arguments)
        print(f"{' '.join(arguments):<22}{took:>8.2f} s, {sealed / took:,.0f} rows/s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
