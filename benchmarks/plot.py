"""The picture of growth.json."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.points import RUSH, STEADY, Found, line, mid

_BLUE: Final = "#1f5fa8"
_GREEN: Final = "#3a8f5c"
_PARTS: Final = {
    "producer": ("producer", _GREEN),
    "redis_admits": ("Redis takes in", "#d9838f"),
    "redis_reads": ("Redis gives out", "#b23a48"),
    "redis": ("Redis", "#b23a48"),
    "worker": ("worker", _BLUE),
    "postgres": ("Postgres", "#e08a2e"),
}
# Title, label of the x axis, its scale.
_FACTORS: Final = {
    "workers": ("Workers", "workers", "linear"),
    "partitions": ("Partitions", "partitions, one worker", "log"),
    "nodes": ("Cluster", "masters; 0: one Redis, no cluster", "linear"),
    "traders": ("Traders", "traders that take turns", "log"),
    "rate": ("Rate", "snapshots a second", "log"),
    "batch_size": ("Batch size", "snapshots a transaction at most", "log"),
    "history": ("History", "rows stored before", "linear"),
}


def installed() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(growth: Mapping[str, Any], path: Path) -> None:
    """A column a factor: rates, waits, processor time; below, what has no column of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 13), layout="constrained")
    panels = figure.subplots(4, 4)
    for column, factor in enumerate(("workers", "partitions", "nodes", "traders")):
        many = growth["many"] if factor in ("workers", "nodes") else None
        for row, panel in enumerate((_rates, _waits, _rush_parts)):
            panel(panels[row][column], growth, factor, many)
    _waits(panels[3][0], growth, "rate", None)
    _parts(panels[3][1], line(growth, "rate", "p50_ms"), "rate", STEADY, "steady_us", cores=True)
    _parts(panels[3][2], line(growth, "batch_size", "drain_per_s"), "batch_size", RUSH, "us")
    _parts(panels[3][3], line(growth, "history", "drain_per_s"), "history", RUSH, "us")
    _level(panels[0])
    _level([*panels[1], panels[3][0]], least=1)
    _level(panels[2])
    about = growth["about"]
    figure.suptitle("How riskstream grows: medians, and the range of the runs", fontsize=14)
    figure.supxlabel(
        f"{about['Machine']}; Python {about['Python'].split()[-1]}, Postgres {about['Postgres']}, "
        f"Valkey {about['Valkey']}; {about['Date']}. {about['Size']}.\nWhere a panel does not say otherwise: "
        "1 worker, 1 partition, one Redis, 200 traders, 1,000 snapshots a second for the waits.",
        fontsize=8,
        color="#555",
    )
    FigureCanvasAgg(figure).print_figure(path, dpi=100)


def draw_verify(seconds: Mapping[int, Sequence[float]], path: Path) -> None:
    """How long `riskstream verify` takes. seconds: of each run, by the number of sealed rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    rows, times = list(seconds), [sorted(each) for each in seconds.values()]
    medians = [each[len(each) // 2] for each in times]
    axes.fill_between(
        rows, [each[0] for each in times], [each[-1] for each in times], color=_BLUE, alpha=0.15
    )
    axes.plot(rows, medians, color=_BLUE, marker="o")
    axes.set_xscale("log")
    axes.set_xticks(rows, [_short(each) for each in rows])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.5 * max(each[-1] for each in times))
    axes.set_xlabel("sealed rows")
    axes.set_ylabel("seconds")
    axes.set_title("riskstream verify: medians, and the range of the runs", fontsize=10)
    axes.grid(alpha=0.25)
    FigureCanvasAgg(figure).print_figure(path, dpi=100)


def _rates(axes: Any, growth: Mapping[str, Any], factor: str, many: int | None) -> None:
    """How many a second the producer sends, and the workers store, each alone."""
    for partitions, dashes in _lines(many):
        points = line(growth, factor, "drain_per_s", **partitions)
        _curve(axes, points, factor, "push_per_s", _GREEN, dashes, "one producer sends")
        _curve(axes, points, factor, "drain_per_s", _BLUE, dashes, "the workers store")
    _style(axes, factor, points, "snapshots/s", title=_title(factor, many))


def _waits(axes: Any, growth: Mapping[str, Any], factor: str, many: int | None) -> None:
    """From recorded_at to stored_at."""
    for partitions, dashes in _lines(many):
        points = line(growth, factor, "p50_ms", **partitions)
        _curve(axes, points, factor, "p99_ms", "#7a4fa3", dashes, "p99")
        _curve(axes, points, factor, "p50_ms", _BLUE, dashes, "p50")
    _style(axes, factor, points, "ms from recorded to stored", title=_FACTORS["rate"][0] * (factor == "rate"))
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))


def _rush_parts(axes: Any, growth: Mapping[str, Any], factor: str, many: int | None) -> None:
    others = {"partitions": many} if many else {}
    _parts(axes, line(growth, factor, "drain_per_s", **others), factor, RUSH, "us", title="")


def _parts(
    axes: Any,
    points: Sequence[Found],
    factor: str,
    parts: Sequence[str],
    prefix: str,
    *,
    title: str | None = None,
    cores: bool = False,
) -> None:
    """Processor time of each part, one above the other, a row or a second (cores)."""
    per = [mid(each, "steady_per_s") / 1e6 if cores else 1 for each in points]
    below = [0.0] * len(points)
    for part in parts:
        name, colour = _PARTS[part]
        heights = [mid(each, f"{prefix}_{part}") * times for each, times in zip(points, per, strict=True)]
        axes.bar(range(len(points)), heights, 0.7, below, color=colour, label=name)
        below = [under + height for under, height in zip(below, heights, strict=True)]
    for number, (each, top) in enumerate(zip(points, below, strict=True)):
        runs = [
            sum(values) for values in zip(*(each["measures"][f"{prefix}_{p}"] for p in parts), strict=True)
        ]
        least, most = (each(runs) * per[number] for each in (min, max))
        axes.plot([number, number], [least, most], color="#333", linewidth=1)
        shown = f"{top:.2g}" if cores else f"{top:.0f}"
        axes.annotate(shown, (number, max(most, top)), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(points)), [_short(each["setting"][factor]) for each in points], fontsize=9)
    axes.set_title(
        _FACTORS[factor][0] if title is None else title, fontsize=11, loc="left", fontweight="bold"
    )
    axes.set_xlabel(_FACTORS[factor][1])
    axes.set_ylabel("cores that are busy" if cores else "µs of processor a row")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(y=0.3)
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)


def _lines(many: int | None) -> list[tuple[dict[str, int], str]]:
    """What the points of a line have in common, and how it is drawn: one partition is dashed."""
    return [({}, "o--"), ({"partitions": many}, "o-")] if many else [({}, "o-")]


def _curve(
    axes: Any, points: Sequence[Found], factor: str, measure: str, colour: str, dashes: str, name: str
) -> None:
    x = [point["setting"][factor] for point in points]
    runs = [point["measures"][measure] for point in points]
    axes.fill_between(x, list(map(min, runs)), list(map(max, runs)), color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        x,
        [mid(point, measure) for point in points],
        dashes,
        color=colour,
        markersize=4,
        label=name if dashes == "o-" else None,
    )


def _style(axes: Any, factor: str, points: Sequence[Found], unit: str, *, title: str) -> None:
    _, label, scale = _FACTORS[factor]
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    axes.set_xscale(scale)
    ticks = [point["setting"][factor] for point in points]
    axes.set_xticks(_spread(ticks) if scale == "log" else ticks)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: _short(value))
    axes.grid(color="#ddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.legend(frameon=False, fontsize=8, loc="best")


def _title(factor: str, many: int | None) -> str:
    return _FACTORS[factor][0] + (f", {many} partitions (dashed: 1)" if many else "")


def _level(row: Sequence[Any], least: float = 0) -> None:
    """The same scale for all of these panels."""
    top = max(axes.get_ylim()[1] for axes in row)
    for axes in row:
        axes.set_ylim(least, top * (1.1 if least == 0 else 2))


def _spread(ticks: list[int]) -> list[int]:
    """Without those that stand so close to the one before that their labels would touch."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick >= kept[-1] * 2.4:
            kept.append(tick)
    return kept


def _short(value: float) -> str:
    """1000 as 1k, 10,000,000 as 10M."""
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if value >= unit:
            return f"{value / unit:g}{sign}"
    return f"{value:g}"
