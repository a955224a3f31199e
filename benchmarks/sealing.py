"""What sealing takes from storing: `python -m benchmarks.sealing [--rows 200000] [--turns 5]`.

A worker drains what waits in the stream as quickly as it can, in turns alone and while as many rows of the
hours before are sealed: each row that is stored is sealed once, so this is what a system at its limit pays.
The processor time of Postgres is that of the storing and the sealing together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import psycopg

from benchmarks.cpu import Clock
from benchmarks.process import Process
from benchmarks.rows import TRADERS, payloads
from benchmarks.servers import MIGRATED, Servers
from risk_producer.contract.keys import Keys

FILLED = "to_be_sealed"
HOURS = 3
# Stored in transactions of 2,000 rows in the hours before, in the order in which they came.
_FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, last_reset_time, stored_at
    )
    SELECT 'trader-' || lpad((n %% %(traders)s)::text, 3, '0'), began + n * step, 1, n / %(traders)s + 1,
        'trace-' || n, 'tick', n * 0.25, 1.25, 100000.0 + n, 250000.0, false, date_trunc('day', began),
        began + n / 2000 * 2000 * step
    FROM generate_series(0, %(rows)s - 1) AS n, (
        SELECT date_trunc('hour', now()) - (%(hours)s + 1) * interval '1 hour' AS began,
            %(hours)s * interval '1 hour' / %(rows)s AS step
    ) AS times
"""


@dataclass(frozen=True)
class Turn:
    """One drain."""

    rows_per_s: float
    postgres_us: float
    """Of processor time for each row that was stored."""
    sealed_per_s: float | None = None


def turn(servers: Servers, waiting: Sequence[bytes], *, sealing: bool) -> Turn:
    """Drain all payloads; with sealing, while as many rows are sealed."""
    with ExitStack() as stack:
        url = stack.enter_context(servers.database(FILLED))
        environ = {"REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
        servers.empty()
        servers.note(waiting, Keys(0))
        worker = stack.enter_context(Process("benchmarks.drainer", "0", environ=environ))
        sealer = stack.enter_context(Process("benchmarks.sealer", environ=environ))
        servers.fill(waiting[:1])
        worker.tell(1)
        worker.hear()
        servers.fill(waiting[1:])
        rows = len(waiting) - 1
        clock = Clock(postgres=[servers.postgres.pid])
        worker.tell(rows)
        if sealing:
            sealer.tell(len(waiting))
        worker.hear()
        took, sealed_per_s = clock.took_s, None
        if sealing:
            sealer.hear()
            sealed_per_s = len(waiting) / clock.took_s
        return Turn(rows / took, clock.read_us(rows)["postgres"], sealed_per_s)


def main() -> None:
    """Print the medians, and the ratio, which is taken turn by turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sealing")
    parser.add_argument(
        "--rows", type=int, default=200_000, help="that are stored, and that are sealed meanwhile"
    )
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    alone: list[Turn] = []
    beside: list[Turn] = []
    began = perf_counter()
    with Servers() as servers:
        servers.sql("CREATE DATABASE {} TEMPLATE {}", FILLED, MIGRATED)
        with psycopg.connect(servers.postgres.url_of(FILLED), autocommit=True) as db:
            db.execute(_FILL, {"rows": arguments.rows, "traders": TRADERS, "hours": HOURS})
            db.execute("VACUUM (FREEZE, ANALYZE)")
        waiting = payloads(arguments.rows)
        for number in range(arguments.turns):
            for sealing in (False, True) if number % 2 else (True, False):  # neither is always the first
                (beside if sealing else alone).append(turn(servers, waiting, sealing=sealing))
    print(f"{arguments.rows:,} rows, medians of {arguments.turns} turns, {perf_counter() - began:.0f} s")
    print(f"{'':<22}{'rows/s':>12}{'Postgres, µs a row':>22}")
    for name, turns in (("alone", alone), ("while sealing", beside)):
        rate, cost = median(each.rows_per_s for each in turns), median(each.postgres_us for each in turns)
        print(f"{name:<22}{rate:>12,.0f}{cost:>22.1f}")
    ratios = [b.rows_per_s / a.rows_per_s for a, b in zip(alone, beside, strict=True)]
    costs = [b.postgres_us - a.postgres_us for a, b in zip(alone, beside, strict=True)]
    print(f"rate while sealing to alone: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"sealing: {median(costs):.1f} µs of Postgres a row, "
        f"{median(each.sealed_per_s or 0 for each in beside):,.0f} rows/s beside the drain"
    )


if __name__ == "__main__":
    main()
