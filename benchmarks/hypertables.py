"""Draining into what TimescaleDB makes of history, beside the plain table: `make bench-timescale`, or

    python -m benchmarks.hypertables [--url postgresql://…] [--rows N] [--runs N] [--page]

On one server, in turns: a plain table, a hypertable, one with the columnstore, its policy and continuous
aggregates, and one that has compressed chunks, into which a share of the rows goes, as they come late.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Final

import msgspec

from benchmarks import machine, page
from benchmarks.blocks import number
from benchmarks.drains import drained
from benchmarks.rows import EPOCH, TRADERS, snapshot
from benchmarks.servers import Servers
from benchmarks.timescale import (
    COLUMNSTORE,
    COMPRESSED,
    COMPRESSED_FROM,
    COMPRESSED_SPAN,
    HYPERTABLE,
    PLAIN,
    Timescale,
    add_url,
    required_url,
)
from benchmarks.trial import Setting, steady
from risk_producer.contract import wire

LATE: Final = (0.0, 0.01, 0.1, 1.0)
"""Shares of rows that belong into compressed chunks."""


Cases = dict[str, dict[str, list[float]]]
"""Case -> each measure in each run."""


def cases() -> Iterator[tuple[str, str, float]]:
    """(its name, what history is, the share of rows that are late)."""
    yield from ((kind, kind, 0.0) for kind in (PLAIN, HYPERTABLE, COLUMNSTORE))
    yield from ((f"{COMPRESSED} {share:g}", COMPRESSED, share) for share in LATE)


def payloads(count: int, late: float) -> list[bytes]:
    """Stream entries; late: which share of them has its time in the compressed chunks, all over them."""
    chance = Random(7)
    now = datetime.now(UTC)
    made = []
    for place in range(count):
        row = snapshot(place)
        if chance.random() < late:
            at = now - COMPRESSED_FROM + COMPRESSED_SPAN * chance.random()
            row = msgspec.structs.replace(row, recorded_at=at)
        made.append(wire.encode(row, EPOCH, place // TRADERS + 1))
    return made


def measure(servers: Servers, timescale: Timescale, rows: int, runs: int, seconds: float) -> Cases:
    """Everything in turns."""
    found: Cases = {}
    waiting = {late: payloads(rows, late) for late in LATE}
    for _ in range(runs):
        for name, kind, late in cases():
            one = drained(servers, waiting[late], template=kind, databases=timescale)
            measured = {
                "rows_per_s": one.rows_per_s,
                "us_worker": one.cpu.worker,
                "us_postgres": one.cpu.postgres,
            }
            if kind != COMPRESSED:
                waits = steady(servers, Setting(), seconds, databases=timescale, template=kind)
                measured |= {each: waits[each] for each in ("p50_ms", "p99_ms")}
            for measure, value in measured.items():
                found.setdefault(name, {}).setdefault(measure, []).append(value)
            shown = ", ".join(f"{key} {number(value)}" for key, value in measured.items())
            print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hypertables", description="Drain into hypertables and a plain table."
    )
    add_url(parser)
    parser.add_argument("--rows", type=int, default=100_000, help="snapshots of each run (default 100,000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument(
        "--seconds", type=float, default=5, help="at 1,000 a second, for the waits (default 5)"
    )
    page.add_option(parser)
    arguments = parser.parse_args()
    timescale = Timescale(required_url(parser, arguments.url))
    with Servers() as servers:
        found = measure(servers, timescale, arguments.rows, arguments.runs, arguments.seconds)
        about = machine.described(servers) | {"Postgres": timescale.version}
    about["Size"] = f"{arguments.rows:,} snapshots a run, {arguments.runs} runs"
    page.show("hypertables", {"about": about, "cases": found}, keep=arguments.page)


if __name__ == "__main__":
    main()
