"""What becomes of rates, waits and processor time as things grow, one factor at a time: `make growth`, or

    python -m benchmarks.growth [--only CURVE ...] [--quick] [--minutes N] [--into FOLDER] [--redraw]

Every point is measured once, then all of them again, as often as the time allows. Writes growth.json with
every figure, draws growth.png from it, and renders them into scale.md. --only measures these curves anew and
leaves the others as they are, so that all of it can be made in parts. --redraw only draws and renders.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from benchmarks import bends, history, machine, plot, scale
from benchmarks.points import Found
from benchmarks.process import CHECKOUT
from benchmarks.servers import Servers
from benchmarks.trial import Measured, Setting, rush, steady

CURVES: Final = ("workers", "nodes", "partitions", "traders", "rate", "batch_size", "history")
BENDS: Final = "bends"


@dataclass(frozen=True)
class Grid:
    """Where each curve is measured, and how much of a trial."""

    workers: Sequence[int] = (1, 2, 4)
    partitions: Sequence[int] = (1, 4, 16, 64)
    nodes: Sequence[int] = (0, 1, 3)
    traders: Sequence[int] = (1, 10, 100, 200, 1_000, 10_000, 100_000)
    rate: Sequence[int] = (100, 1_000, 5_000, 10_000, 20_000, 40_000)
    batch_size: Sequence[int] = (100, 1_000, 10_000, 20_000)
    history: Sequence[int] = (0, 1_000_000, 10_000_000)
    many: int = 16
    """Partitions with which the curves of workers and nodes are measured a second time."""
    rows: int = 100_000
    seconds: float = 5.0
    bent: Mapping[str, Setting] = field(default_factory=lambda: bends.POINTS)

    def rushes(self, curves: Collection[str] = CURVES) -> list[Setting]:
        """What is measured as quickly as it goes."""
        return self._settings(curves, without="rate")

    def steadies(self, curves: Collection[str] = CURVES) -> list[Setting]:
        """What is measured at a steady rate."""
        return self._settings(set(curves) - {"batch_size", "history"})

    def _settings(self, curves: Collection[str], without: str = "") -> list[Setting]:
        found: list[Setting] = []
        for curve in CURVES:
            if curve in curves and curve != without:
                for partitions in (1, self.many) if curve in ("workers", "nodes") else (1,):
                    found += _line(curve, getattr(self, curve), Setting(partitions=partitions))
        return list(dict.fromkeys(found))


QUICK = Grid(
    (1, 2),
    (1, 4),
    (0, 3),
    (10, 200),
    (100, 1_000),
    (100, 5_000),
    (0, 20_000),
    4,
    5_000,
    0.5,
    {"few": Setting()},
)


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
        "--only",
        nargs="+",
        choices=(*CURVES, BENDS),
        metavar="CURVE",
        help=f"of {', '.join((*CURVES, BENDS))} (default: all)",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="only draw and render, from the figures of last time"
    )
    arguments = parser.parse_args()
    grid, minutes = (QUICK, 1.0) if arguments.quick else (Grid(), 19.0)
    into: Path = arguments.into or CHECKOUT / (".riskstream" if arguments.quick else "docs")
    if not plot.installed():
        parser.error("matplotlib is not installed: pip install -e '.[dev]'")
    if arguments.only and not (into / "growth.json").exists():
        parser.error(
            f"{into / 'growth.json'} has no figures yet of the other curves: measure all of them first"
        )
    if not arguments.redraw:
        into.mkdir(parents=True, exist_ok=True)
        file = into / "growth.json"
        asked = arguments.only or (*CURVES, BENDS)
        before = json.loads(file.read_text()) if arguments.only else {"points": []}
        file.write_text(as_json(measure(grid, 60 * (arguments.minutes or minutes), asked, before)))
    growth = json.loads((into / "growth.json").read_text())
    plot.draw(growth, into / "growth.png")
    page = CHECKOUT / "docs" / "scale.md"
    (into / page.name).write_text(scale.rendered(page.read_text(), growth))
    print(f"{into}: growth.json, growth.png, {page.name}")


def measure(grid: Grid, limit_s: float, curves: Collection[str], before: Mapping[str, Any]) -> dict[str, Any]:
    """All points of these curves in turns; a turn that would not end within the limit is not begun.

    before: the figures of what is not measured now.
    """
    began = monotonic()
    points: dict[Setting, Point] = {}
    turns = 0
    bent = before.get(BENDS, {})
    if BENDS in curves:
        with Servers(bends.LOGGED) as servers:
            bent = bends.measure(servers, grid.rows, _say, grid.bent)
    with Servers() as servers:
        rushes, steadies = grid.rushes(curves), grid.steadies(curves)
        stored = sorted({setting.history for setting in rushes})
        _say(f"filling histories: {', '.join(f'{each:,}' for each in stored) or 'none'}")
        templates = {each: history.filled(servers, each) for each in stored}
        filled = monotonic()
        while rushes + steadies and (
            not turns or monotonic() - began + (monotonic() - filled) / turns < limit_s
        ):
            for setting, measured in _turn(servers, grid, rushes, steadies, templates):
                points.setdefault(setting, Point(setting)).note(measured)
                _say(f"{_short(setting)}: {', '.join(map(_shown, measured.items()))}")
            turns += 1
            _say(f"turn {turns} is over, {(monotonic() - began) / 60:.1f} min")
        about = {
            **machine.described(servers),
            "Size": f"{grid.rows:,} snapshots a rush, {grid.seconds:g} s at a steady rate",
            "Date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
    new = [{"setting": asdict(each.setting), "measures": each.measures} for each in points.values()]
    return {"about": about, "many": grid.many, BENDS: bent, "points": merged(before["points"], new)}


def merged(before: Sequence[Found], new: Sequence[Found]) -> list[Found]:
    """Each point with what was measured last."""
    found = {json.dumps(point["setting"]): dict(point["measures"]) for point in before}
    for point in new:
        found.setdefault(json.dumps(point["setting"]), {}).update(point["measures"])
    return [{"setting": json.loads(setting), "measures": each} for setting, each in found.items()]


def _turn(
    servers: Servers,
    grid: Grid,
    rushes: Sequence[Setting],
    steadies: Sequence[Setting],
    templates: Mapping[int, str],
) -> Iterator[tuple[Setting, Measured]]:
    """Every point once."""
    for setting in rushes:
        yield setting, rush(servers, setting, grid.rows, templates[setting.history])
    for setting in steadies:
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
