"""The tables of docs/benchmarks.md, and the figures that they are made of: docs/benchmarks.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import blocks, report
from benchmarks.blocks import number, spread, table
from benchmarks.process import CHECKOUT

FOLDER: Final = CHECKOUT / "docs"
FILE: Final = "benchmarks.json"
PAGE: Final = "benchmarks.md"
_PARTS: Final = {"kill": "3 times `kill -9`", "cut": "3 times cut off from Postgres"}
_CASES: Final = {
    "plain": "a plain table",
    "hypertable": "a hypertable",
    "columnstore": "a hypertable after `riskstream timescale enable`",
    "compressed 0": "the same, with compressed chunks; none of the rows is late",
    "compressed 0.01": "1 % of the rows are late, all over the compressed chunks",
    "compressed 0.1": "10 % are",
    "compressed 1": "all are",
}


def add_option(parser: argparse.ArgumentParser) -> None:
    """Whether the page is to have the figures."""
    parser.add_argument("--page", action="store_true", help=f"write them into docs/{FILE} and docs/{PAGE}")


def show(section: str, figures: Mapping[str, Any], *, keep: bool) -> None:
    """Print the tables that have something of a section. keep: and write them into the page."""
    about = {"Date": f"{datetime.now(UTC):%Y-%m-%d}", **figures["about"]}
    known = json.loads((FOLDER / FILE).read_text()) if (FOLDER / FILE).exists() else {}
    known[section] = _shortened({**figures, "about": about})
    for name in _SHOWN[section]:
        print(f"{_block(name, known)}\n")
    if keep:
        write(known, FOLDER)


def write(figures: Mapping[str, Any], folder: Path) -> None:
    """The file, and the page with these figures."""
    (folder / FILE).write_text(as_json(figures))
    (folder / PAGE).write_text(rendered((folder / PAGE).read_text(), figures))


def rendered(page: str, figures: Mapping[str, Any]) -> str:
    """The page with the blocks of these figures; a block of which nothing was measured says so."""
    return blocks.rendered(page, FILE, {name: partial(_block, name) for name in BLOCKS}, figures)


def _block(name: str, figures: Mapping[str, Any]) -> str:
    section, make = BLOCKS[name]
    return make(figures) if section in figures else "Not measured yet."


def as_json(figures: Mapping[str, Any]) -> str:
    """A measure in a line."""
    sections = []
    for section, parts in sorted(figures.items()):
        lines = [f"  {json.dumps(name)}: {_lines(part)}" for name, part in parts.items()]
        sections.append(f" {json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _lines(part: Any) -> str:
    if not isinstance(part, dict):
        return json.dumps(part)
    return (
        "{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        + "\n  }"
    )


def _shortened(value: Any) -> Any:
    """Numbers with five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _shortened(each) for key, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list) else value


def _peers(figures: Mapping[str, Any]) -> str:
    """Rates, and what faults have left."""
    rates = figures["peers_rates"]["ways"]
    copy = rates["COPY"]["rows_per_s"]
    rows = []
    for name, way in rates.items():
        ratio = median(each / copied for each, copied in zip(way["rows_per_s"], copy, strict=True))
        left = [_left(figures, part, name) for part in _PARTS]
        us = [number(median(way[each])) for each in ("us_all", "us_worker") if each in way]
        rows.append([name, spread(way["rows_per_s"]), f"{ratio:.2g}", *(us or ["", ""]), *left])
    heads = ["rows a second", "to COPY", "µs of all", "µs of its worker", *_PARTS.values()]
    return table(["", *heads], rows)


def _left(figures: Mapping[str, Any], part: str, name: str) -> str:
    """What faults have left of what was sent to it."""
    found = figures.get(f"peers_{part}", {}).get("ways", {}).get(name)
    if found is None:
        return "not measured" if name in figures["peers_rates"]["promises"] else ""
    missing = f"**{found['missing']:,} missing**" if found["missing"] else "all stored"
    again = f", {found['again']:,} delivered again" if found["again"] else ""
    return f"{missing} of {found['sent']:,}{again}"


def _promises(figures: Mapping[str, Any]) -> str:
    """What each says."""
    rows = [
        [name, *(promise[each] for each in ("acknowledged", "refused", "order", "bound"))]
        for name, promise in figures["peers_rates"]["promises"].items()
    ]
    return table(
        ["", "acknowledged", "a batch that Postgres refuses or cannot take", "order", "bound of what waits"],
        rows,
    )


def _hypertables(figures: Mapping[str, Any]) -> str:
    """Each kind of table."""
    found = figures["hypertables"]["cases"]
    plain = found["plain"]["rows_per_s"]
    rows = []
    for case, name in _CASES.items():
        measures = found[case]
        ratio = median(each / other for each, other in zip(measures["rows_per_s"], plain, strict=True))
        waits = [spread(measures[each]) if each in measures else "" for each in ("p50_ms", "p99_ms")]
        us = [number(median(measures[each])) for each in ("us_worker", "us_postgres")]
        rows.append([name, spread(measures["rows_per_s"]), f"{ratio:.2f}", *us, *waits])
    heads = ["rows a second", "to plain", "worker µs", "Postgres µs", "p50 ms", "p99 ms"]
    return table(["history is", *heads], rows)


def _bench(figures: Mapping[str, Any]) -> str:
    """Measures, yardsticks, goals."""
    values = figures["bench"]["values"]
    return table(report.HEADINGS, report.rows(values))


def _about(section: str) -> Any:
    """When and on what, in a line."""

    def line(figures: Mapping[str, Any]) -> str:
        about = figures[section]["about"]
        shown = [about["Date"], about["Machine"], f"Postgres {about['Postgres']}"]
        shown += [f"Valkey {about['Valkey']}", f"Python {about['Python'].split()[-1]}"]
        return f"{', '.join(shown)}; {about['Size']}."

    return line


def _machine(figures: Mapping[str, Any]) -> str:
    """All of it."""
    return table(["", ""], [[name, text] for name, text in figures["bench"]["about"].items()])


BLOCKS: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "peers": ("peers_rates", _peers),
    "peers_about": ("peers_rates", _about("peers_rates")),
    "promises": ("peers_rates", _promises),
    "hypertables": ("hypertables", _hypertables),
    "hypertables_about": ("hypertables", _about("hypertables")),
    "bench": ("bench", _bench),
    "bench_machine": ("bench", _machine),
}
"""Name of a block -> the section of the file that it needs, and what makes it."""
_SHOWN: Final[Mapping[str, Sequence[str]]] = {
    "peers_rates": ("peers", "promises"),
    "peers_kill": ("peers",),
    "peers_cut": ("peers",),
    "hypertables": ("hypertables",),
    "bench": ("bench",),
}
"""Section of the file -> the tables that have something of it."""
