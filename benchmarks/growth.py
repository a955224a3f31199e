"""How the drain's rate changes as things grow: `make growth`, or

    python -m benchmarks.growth [--quick] [--rows N] [--runs N] [--into FOLDER] [--redraw]

Writes growth.json with every figure, and draws growth.png from it. --redraw only draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import history, machine, plot
from benchmarks.drains import Drained, drained
from benchmarks.process import CHECKOUT
from benchmarks.rows import TRADERS, payloads
from benchmarks.servers import Servers


@dataclass(frozen=True)
class Grid:
    """Where each curve is measured."""

    batch_size: Sequence[int] = (100, 300, 1_000, 2_000, 5_000, 10_000, 20_000)
    backlog: Sequence[int] = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
    traders: Sequence[int] = (1, 10, 100, 1_000, 10_000, 100_000)
    partitions: Sequence[int] = (1, 2, 3, 4)
    history: Sequence[int] = (0, 1_000_000, 3_000_000, 10_000_000)


QUICK = Grid((100, 1_000, 5_000), (1_000, 5_000), (1, 100, 5_000), (1, 2), (0, 20_000))
Curve = list[dict[str, Any]]
"""Points: x, and of each run rows_per_s and cpu_us (see CpuTime)."""


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description="Measure how the rate changes.")
    parser.add_argument("--rows", type=int, help="snapshots of each run (default 200,000)")
    parser.add_argument("--runs", type=int, help="runs of each point (default 5)")
    parser.add_argument("--quick", action="store_true", help="a few points, 5,000 rows, 1 run")
    parser.add_argument(
        "--into", type=Path, help="folder of the two files (default docs; quick: .riskstream)"
    )
    parser.add_argument("--redraw", action="store_true", help="only draw, from the figures of last time")
    arguments = parser.parse_args()
    rows, runs, grid = (5_000, 1, QUICK) if arguments.quick else (200_000, 5, Grid())
    rows, runs = arguments.rows or rows, arguments.runs or runs
    into: Path = arguments.into or CHECKOUT / (".riskstream" if arguments.quick else "docs")
    figures, picture = into / "growth.json", into / "growth.png"
    if not plot.installed():
        parser.error("matplotlib is not installed: pip install -e '.[dev]'")
    if not arguments.redraw:
        into.mkdir(parents=True, exist_ok=True)
        with Servers() as servers:
            curves = measure(servers, grid, rows, runs)
            about = {**machine.described(servers), "Size": f"{rows:,} snapshots of {TRADERS} traders"}
        figures.write_text(json.dumps({"about": about, "runs": runs, "curves": curves}, indent=1) + "\n")
    plot.draw(json.loads(figures.read_text()), picture)
    print(picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture)


def measure(servers: Servers, grid: Grid, rows: int, runs: int) -> dict[str, Curve]:
    """name -> its points; all points of a curve one after the other, and then again."""
    made = lru_cache(4)(payloads)

    def by_batch_size(size: int) -> Drained:
        return drained(servers, made(rows), settings={"RISK_BATCH_SIZE": str(size)})

    def by_backlog(backlog: int) -> Drained:
        return drained(servers, made(max(grid.backlog))[:backlog])

    def by_traders(traders: int) -> Drained:
        return drained(servers, made(rows, traders), traders=traders)

    def by_partitions(partitions: int) -> Drained:
        return drained(servers, made(rows), partitions=partitions)

    def by_history(stored: int) -> Drained:
        return drained(servers, made(rows), template=templates[stored])

    curves = {
        "batch_size": _curve("batch size", grid.batch_size, runs, by_batch_size),
        "backlog": _curve("backlog", grid.backlog, runs, by_backlog),
        "traders": _curve("traders", grid.traders, runs, by_traders),
        "partitions": _curve("partitions", grid.partitions, runs, by_partitions),
    }
    _say(f"filling history with up to {max(grid.history):,} rows")
    templates: Mapping[int, str] = {stored: history.filled(servers, stored) for stored in grid.history}
    return curves | {"history": _curve("history", grid.history, runs, by_history)}


def _curve(name: str, points: Sequence[int], runs: int, run: Callable[[int], Drained]) -> Curve:
    curve: Curve = [{"x": x, "rows_per_s": [], "cpu_us": []} for x in points]
    for _ in range(runs):
        for point in curve:
            one = run(point["x"])
            point["rows_per_s"].append(round(one.rows_per_s))
            point["cpu_us"].append({who: round(us, 2) for who, us in asdict(one.cpu).items()})
            _say(f"{name} {point['x']:,}: {one.rows_per_s:,.0f} rows/s")
    return curve


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
