"""The picture as a PNG file, drawn by matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from risk_worker.picture import axis, words
from risk_worker.picture.curve import Picture
from risk_worker.picture.figures import on_axis

_INK, _MUTED, _RULE, _EQUITY, _BELOW, _PAUSE, _GAP = (
    *("#15181c", "#4d5661", "#dde1e6", "#1b4f8a", "#c2512a", "#f3b63a", "#9aa3ad"),
)
_STYLE: Final = {
    "text.parse_math": False,  # a $ in a trader_id is a $
    "font.size": 9.5,
    "hatch.linewidth": 0.6,
    "axes.unicode_minus": True,
}
_BESIDE: Final[dict[str, Any]] = {"xycoords": "axes fraction", "textcoords": "offset points"}


def draw(picture: Picture, path: Path) -> None:
    """Write a PNG of 1,440 by 780 pixels. Raises OSError."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that no font has is a box in the picture
        figure = Figure(figsize=(9.6, 5.2), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 1, height_ratios=(5, 2), hspace=0.21, left=0.025, right=0.905, top=0.84, bottom=0.13
        )
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1])
        _equity(upper, picture)
        _drawdown(lower, picture)
        figure.text(0.025, 0.945, words.cut_name(picture.trader), fontsize=15, fontweight="bold", color=_INK)
        figure.text(0.025, 0.9, words.figures(picture), color=_MUTED)
        figure.text(0.025, 0.025, words.note(picture), color=_MUTED, fontsize=8.5)
        about = {"Title": words.heading(picture), "Software": "riskstream"}
        figure.savefig(path, format="png", metadata=about, pil_kwargs={"optimize": True})


def _equity(axes: Any, picture: Picture) -> None:
    _panel(axes, picture, picture.equity, "equity", "")
    axes.set_ylim(picture.equity.low, picture.equity.high)
    for line in picture.lines:
        _fill(axes, picture, line, "low", "high", color=_EQUITY, alpha=0.22)
        if not picture.peak_is_off:
            x, y = _corners(picture, line, "peak")
            axes.plot(x, y, color=_MUTED, linewidth=0.9, dashes=(5, 3))
        x, y = [], []
        for step in line:
            if not x or x[-1] != picture.x(step.since):
                x.append(picture.x(step.since))
                y.append(step.open)
            x.append(picture.x(step.until))
            y.append(step.close)
        axes.plot(x, y, color=_EQUITY, linewidth=1.3, solid_joinstyle="round")
    axes.tick_params(labelbottom=False, bottom=False)
    _names(axes, picture)


def _drawdown(axes: Any, picture: Picture) -> None:
    _panel(axes, picture, picture.drawdown, "drawdown", " %")
    axes.set_ylim(picture.drawdown.high, picture.drawdown.low)
    for line in picture.lines:
        _fill(axes, picture, line, None, "drawdown", color=_BELOW, alpha=0.55)
    marks = axis.times(picture.since, picture.until, picture.zone)
    axes.set_xticks([picture.x(mark.at) for mark in marks], [mark.label for mark in marks])
    if marks and picture.x(marks[0].at) < 0.03:
        axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color("#8a939e")


def _panel(axes: Any, picture: Picture, scale: axis.Scale, name: str, unit: str) -> None:
    axes.set_xlim(0, 1)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.yaxis.tick_right()
    labels = [label + unit for label in on_axis(scale.marks, scale.step)]
    axes.set_yticks(scale.marks, labels)
    axes.tick_params(colors=_MUTED, right=False, length=4, which="both")
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.annotate(name, (1, 1), (8, 9), color=_INK, fontweight="bold", **_BESIDE)
    for span in picture.silences:
        axes.axvspan(
            *(picture.x(span.since), picture.x(span.until)),
            facecolor="none", edgecolor=_GAP, hatch="////", linewidth=0,
        )  # fmt: skip
    for span in picture.pauses:
        first, last = picture.x(span.since), max(picture.x(span.until), picture.x(span.since) + 0.001)
        axes.axvspan(first, last, color=_PAUSE, alpha=0.32, linewidth=0)
        if name == "equity":
            axes.axvspan(first, last, ymin=1, ymax=1.016, color="#a86a00", linewidth=0, clip_on=False)


def _names(axes: Any, picture: Picture) -> None:
    """What a band or a line is, where there is room for it."""
    over = {"color": _MUTED, "bbox": {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5}}
    for name, spans in (("paused", picture.pauses), ("no snapshot", picture.silences)):
        for span in spans:
            first, last = picture.x(span.since), picture.x(span.until)
            if last - first >= 0.01 * len(name):
                axes.text((first + last) / 2, 0.03, name, transform=axes.transAxes, ha="center", **over)
    if picture.last is not None:
        place = picture.x(picture.last.until), picture.equity.at(picture.last.peak)
        axes.annotate(words.peak(picture), place, (-4, 5), ha="right", **_BESIDE, **over)


def _fill(axes: Any, picture: Picture, line: Any, low: str | None, high: str, **style: Any) -> None:
    x, above = _corners(picture, line, high)
    _, under = _corners(picture, line, low) if low is not None else (x, [0.0] * len(x))
    axes.fill_between(x, under, above, linewidth=0, **style)


def _corners(picture: Picture, line: Any, name: str) -> tuple[list[float], list[float]]:
    """Both ends of each step."""
    x = [place for step in line for place in (picture.x(step.since), picture.x(step.until))]
    return x, [getattr(step, name) for step in line for _ in range(2)]
