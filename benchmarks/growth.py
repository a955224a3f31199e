"""What becomes of rates, waits and processor time as things grow, one factor at a time: `make growth`, or

    python -m benchmarks.growth [--quick] [--minutes N] [--into FOLDER] [--redraw]

Every point is measured once, then all of them again, as often as the time allows. Writes growth.json with
every figure, draws growth.png from it, and renders them into scale.md. --redraw only draws and renders.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import history, machine, plot, scale
from benchmarks.process import CHECKOUT
from benchmarks.servers import Servers
from benchmarks.trial import Measured, Setting, rush, steady


@dataclass(frozen=True)
class Grid:
    """Where each curve is measured, and how much of a trial."""

    workers: Sequence[int] = (1, 2, 4)
    partitions: Sequence[int] = (1, 4, 16, 64)
    nodes: Sequence[int] = (0, 1, 3)
    traders: Sequence[int] = (10, 100, 200, 1_000, 10_000, 100_000)
    rate: Sequence[int] = (100, 1_000, 5_000, 10_000, 20_000, 40_000)
    batch_size: Sequence[int] = (100, 1_000, 5_000, 20_000)
    history: Sequence[int] = (0, 1_000_000, 10_000_000)
    many: int = 16
    """Partitions with which the curves of workers and nodes are measured a second time."""
    rows: int = 100_000
    seconds: float = 5.0

    def rushes(self) -> list[Setting]:
        """What is measured as quickly as it goes."""
        return _without_repeats([*self._both(), *_line("batch_size", self.batch_size), *self._histories()])

    def steadies(self) -> list[Setting]:
        """What is measured at a steady rate."""
        return _without_repeats([*self._both(), *_line("rate", self.rate)])

    def _both(self) -> Iterator[Setting]:
        for partitions in (1, self.many):
            yield from _line("workers", self.workers, Setting(partitions=partitions))
            yield from _line("nodes", self.nodes, Setting(partitions=partitions))
        yield from _line("partitions", self.partitions)
        yield from _line("traders", self.traders)

    def _histories(self) -> Iterator[Setting]:
        return _line("history", self.history)


QUICK = Grid((1, 2), (1, 4), (0, 3), (10, 200), (100, 1_000), (100, 5_000), (0, 20_000), 4, 5_000, 0.5)


@dataclass
class Point:
    """A setting, and of each measure its value in each run."""

    setting: Setting
    measures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, measured: Measured) -> None:
        """One more run."""
        for name, value in measured.items():
            self.measures.setdefault(name, []).append(float(f"{value:.5g}"))


def main() -> None:
    """Measure, draw and render."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description="Measure how things grow.")
    parser.add_argument(
        "--minutes", type=float, help="another turn is begun while it fits into these (default 19; quick: 1)"
    )
    parser.add_argument("--quick", action="store_true", help="a few points, 5,000 rows, one turn: a minute")
    parser.add_argument("--into", type=Path, help="folder of the files (default docs; quick: .riskstream)")
    parser.add_argument(
        "--redraw", action="store_true", help="only draw and render, from the figures of last time"
    )
    arguments = parser.parse_args()
    grid, minutes = (QUICK, 1.0) if arguments.quick else (Grid(), 19.0)
    into: Path = arguments.into or CHECKOUT / (".riskstream" if arguments.quick else "docs")
    if not plot.installed():
        parser.error("matplotlib is not installed: pip install -e '.[dev]'")
    if not arguments.redraw:
        into.mkdir(parents=True, exist_ok=True)
        growth = measure(grid, 60 * (arguments.minutes or minutes))
        (into / "growth.json").write_text(as_json(growth))
    growth = json.loads((into / "growth.json").read_text())
    plot.draw(growth, into / "growth.png")
    page = CHECKOUT / "docs" / "scale.md"
    (into / page.name).write_text(scale.rendered(page.read_text(), growth))
    print(f"{into}: growth.json, growth.png, {page.name}")


def measure(grid: Grid, limit_s: float) -> dict[str, Any]:
    """All points in turns; a turn that would not end within the limit is not begun."""
    began = monotonic()
    points: dict[Setting, Point] = {}
    turns = 0
    with Servers() as servers:
        _say(f"filling history with up to {max(grid.history):,} rows")
        templates = {stored: history.filled(servers, stored) for stored in grid.history}
        filled = monotonic()
        while not turns or monotonic() - began + (monotonic() - filled) / turns < limit_s:
            for setting, measured in _turn(servers, grid, templates):
                points.setdefault(setting, Point(setting)).note(measured)
                _say(f"{_short(setting)}: {', '.join(map(_shown, measured.items()))}")
            turns += 1
            _say(f"turn {turns} is over, {(monotonic() - began) / 60:.1f} min")
        about = {
            **machine.described(servers),
            "Size": f"{grid.rows:,} snapshots a rush, {grid.seconds:g} s at a steady rate, {turns} runs",
            "Date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
    return {
        "about": about,
        "runs": turns,
        "many": grid.many,
        "points": [{"setting": asdict(each.setting), "measures": each.measures} for each in points.values()],
    }


def _turn(servers: Servers, grid: Grid, templates: Mapping[int, str]) -> Iterator[tuple[Setting, Measured]]:
    """Every point once."""
    for setting in grid.rushes():
        yield setting, rush(servers, setting, grid.rows, templates[setting.history])
    for setting in grid.steadies():
        yield setting, steady(servers, setting, grid.seconds)


def as_json(growth: Mapping[str, Any]) -> str:
    """A point in two lines: one run after the other is one change to review."""
    points = ",\n".join(
        f'  {{"setting": {json.dumps(each["setting"])},\n   "measures": {json.dumps(each["measures"])}}}'
        for each in growth["points"]
    )
    head = json.dumps({name: value for name, value in growth.items() if name != "points"}, indent=1)
    return f'{head[:-2]},\n "points": [\n{points}\n ]\n}}\n'


def _line(factor: str, values: Sequence[int], others: Setting | None = None) -> Iterator[Setting]:
    return (replace(others or Setting(), **{factor: value}) for value in values)


def _without_repeats(settings: Sequence[Setting]) -> list[Setting]:
    return list(dict.fromkeys(settings))


def _short(setting: Setting) -> str:
    """What is not at its default."""
    usual = Setting()
    changed = {
        each.name: value
        for each in fields(setting)
        if (value := getattr(setting, each.name)) != getattr(usual, each.name)
    }
    return ", ".join(f"{name} {value:,}" for name, value in changed.items()) or "the beginning of each curve"


def _shown(measure: tuple[str, float]) -> str:
    return f"{measure[0]} {measure[1]:,.4g}" if measure[1] < 1_000 else f"{measure[0]} {measure[1]:,.0f}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
