"""The picture of growth.json."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

_COLOUR: Final = "#1f5fa8"
_SERIES: Final = {"worker": "#1f5fa8", "postgres": "#e08a2e", "redis": "#b23a48"}
# Title, label of the x axis, its scale, the default.
_PANELS: Final = {
    "batch_size": ("Batch size", "snapshots a transaction at most", "log", 5_000),
    "backlog": ("Backlog", "snapshots in the stream", "log", None),
    "traders": ("Traders", "traders that take turns", "log", None),
    "partitions": ("Partitions", "partitions, one worker process each", "linear", 1),
    "history": ("History", "rows stored before", "linear", None),
}


def installed() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(growth: Mapping[str, Any], path: Path) -> None:
    """Rows a second in five panels, and in the sixth who takes the processors as batches grow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    panels = figure.subplots(2, 3)
    curves = growth["curves"]
    top = max(max(point["rows_per_s"]) for curve in curves.values() for point in curve)
    for axes, (name, (title, label, scale, default)) in zip(panels.flat, _PANELS.items(), strict=False):
        _style(axes, title, label, scale, [point["x"] for point in curves[name]])
        _rates(axes, curves[name], default)
        axes.set_ylim(0, top * 1.08)
        axes.set_ylabel("rows/s")
    _processors(panels.flat[-1], curves["batch_size"])
    about = growth["about"]
    figure.suptitle("What riskstream drains a second: median, and the range of the runs", fontsize=13)
    figure.supxlabel(
        f"{about['Machine']}; Python {about['Python'].split()[-1]}, Postgres {about['Postgres']}, "
        f"Valkey {about['Valkey']}. {about['Size']} where no other is named; {growth['runs']} runs.",
        fontsize=8,
        color="#555",
    )
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


def _style(axes: Any, title: str, label: str, scale: str, ticks: list[int]) -> None:
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(label)
    axes.set_xscale(scale)
    axes.set_xticks(_spread(ticks) if scale == "log" else ticks)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: _short(value))
    axes.grid(color="#ddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _rates(axes: Any, curve: list[dict[str, Any]], default: int | None) -> None:
    x = [point["x"] for point in curve]
    axes.fill_between(
        x,
        [min(point["rows_per_s"]) for point in curve],
        [max(point["rows_per_s"]) for point in curve],
        color=_COLOUR,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(x, [median(point["rows_per_s"]) for point in curve], "o-", color=_COLOUR, markersize=4)
    if default in x:
        axes.axvline(default, color="#888", linestyle=":", linewidth=1)
        axes.annotate(
            " default", (default, 0.03), xycoords=("data", "axes fraction"), fontsize=8, color="#666"
        )


def _processors(axes: Any, curve: list[dict[str, Any]]) -> None:
    x = [point["x"] for point in curve]
    _style(axes, "Processor time by batch size", "snapshots a transaction at most", "log", x)
    for who, colour in _SERIES.items():
        runs = [[cpu[who] for cpu in point["cpu_us"]] for point in curve]
        axes.fill_between(x, list(map(min, runs)), list(map(max, runs)), color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, list(map(median, runs)), "o-", color=colour, markersize=4, label=who)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("µs a row")
    axes.legend(frameon=False, fontsize=9)


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
