"""Samples as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.samples import Samples, shown

AT_LEAST: Final = {
    "drain_vs_copy": 0.5,
    "push_vs_raw_xadd": 0.7,
    "rtt_vs_local": 0.5,
    "two_workers_vs_one": 1.3,
    "history_10m_vs_empty": 0.8,
}
AT_MOST: Final = {
    "e2e_p50_ms": 15.0,
    "e2e_p99_ms": 60.0,
    "worker_rss_mb": 120.0,
    "redis_bytes_per_snapshot": 400.0,
}
HEADINGS: Final = ("measure", "median", "min", "max", "goal")


def as_json(samples: Samples) -> str:
    """name -> median."""
    return json.dumps({name: round(value, 3) for name, value in samples.medians().items()}, indent=2)


def show(samples: Samples) -> None:
    """A table on the terminal."""
    table = Table(*HEADINGS)
    for row in rows(samples.values):
        table.add_row(*row)
    Console().print(table)


def as_markdown(samples: Samples, described: Mapping[str, str]) -> str:
    """Two tables, ready to be pasted into docs/benchmarks.md."""
    lines = ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in described.items()), ""]
    lines += [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(samples.values)]
    return "\n".join(lines)


def rows(values: Mapping[str, Sequence[float]]) -> list[tuple[str, str, str, str, str]]:
    """A row of the table for each measure. values: name -> each run."""
    return [
        (name, shown(median(runs)), shown(min(runs)), shown(max(runs)), _goal(name, median(runs)))
        for name, runs in values.items()
    ]


def _goal(name: str, value: float) -> str:
    """The goal, and whether it is reached."""
    if name in AT_LEAST:
        return f"≥ {AT_LEAST[name]:g} {'✓' if value >= AT_LEAST[name] else '✗'}"
    if name in AT_MOST:
        return f"≤ {AT_MOST[name]:g} {'✓' if value <= AT_MOST[name] else '✗'}"
    return ""
