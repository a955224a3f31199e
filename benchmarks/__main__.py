"""`make bench`, or: riskstream bench [--quick] [--rows N] [--runs N] [--json]"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks import measures
from benchmarks.measures import Bench
from risk_worker.embedded import EmbeddedPostgres, EmbeddedValkey


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(prog="riskstream bench", description="Measure against the yardsticks.")
    parser.add_argument("--rows", type=int, default=200_000, help="snapshots of each run (default 200,000)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measure (default 5)")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, 2 runs")
    parser.add_argument("--json", action="store_true", help="medians and ratios as JSON")
    arguments = parser.parse_args()
    rows, runs = (20_000, 2) if arguments.quick else (arguments.rows, arguments.runs)
    if rows < 1_000 or runs < 1:
        parser.error("--rows from 1,000 on, --runs from 1 on")
    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedValkey(Path(folder) / "valkey")
        postgres = EmbeddedPostgres(Path(folder) / "postgres", config={"track_commit_timestamp": "on"})
        with valkey, postgres:
            samples = measure(Bench(valkey, postgres, rows), runs=runs, seconds=3 if arguments.quick else 15)
    medians = {name: median(values) for name, values in samples.items()}
    ratios = {
        "drain_vs_copy": medians["drain_rows_per_s"] / medians["copy_rows_per_s"],
        "push_vs_raw_xadd": medians["push_per_s"] / medians["raw_xadd_per_s"],
        "save_vs_put_nowait": medians["save_p50_us"] / medians["put_nowait_p50_us"],
    }
    if arguments.json:
        json.dump({name: round(value, 3) for name, value in (medians | ratios).items()}, sys.stdout, indent=2)
        print()
        return
    table = Table("measure", "median", "min", "max")
    for name, values in samples.items():
        table.add_row(name, *(f"{value:,.1f}" for value in (medians[name], min(values), max(values))))
    for name, value in ratios.items():
        table.add_row(name, f"{value:.2f}", "", "")
    Console().print(table)


def measure(bench: Bench, *, runs: int, seconds: float) -> dict[str, list[float]]:
    """name -> one value a run; a measure and its yardstick in turn."""
    samples: dict[str, list[float]] = {}

    def note(name: str, *values: float) -> None:
        samples.setdefault(name, []).extend(values)

    for _ in range(runs):
        note("copy_rows_per_s", measures.copy_rate(bench))
        note("drain_rows_per_s", measures.drain_rate(bench))
    for _ in range(runs):
        note("raw_xadd_per_s", measures.raw_xadd_rate(bench))
        note("push_per_s", measures.push_rate(bench))
    for _ in range(runs):
        put_p50, put_p99 = measures.put_nowait_times_us(bench)
        save_p50, save_p99 = measures.save_times_us(bench)
        note("put_nowait_p50_us", put_p50)
        note("put_nowait_p99_us", put_p99)
        note("save_p50_us", save_p50)
        note("save_p99_us", save_p99)
    for _ in range(min(runs, 2)):
        p50, p99 = measures.latency_ms(bench, seconds=seconds)
        note("e2e_p50_ms", p50)
        note("e2e_p99_ms", p99)
    note("worker_rss_mb", measures.backlog_rss_mb(bench))
    note("redis_bytes_per_snapshot", measures.redis_bytes_per_snapshot(bench))
    return samples


if __name__ == "__main__":
    main()
