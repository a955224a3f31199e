"""The charts in the page: as wide as there is room, with text of its own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from risk_worker.picture import axis, words
from risk_worker.picture.axis import Scale
from risk_worker.picture.curve import Picture
from risk_worker.picture.figures import NARROW, on_axis, percent
from risk_worker.picture.markup import Markup, element, joined
from risk_worker.picture.path import Grid

UPPER: Final = 104
LOWER: Final = 40
"""Pixels of the panels."""
_TOP: Final = 5
_BELOW: Final = _TOP + UPPER + 12
_BOTTOM: Final = _BELOW + LOWER
HEIGHT: Final = _BOTTOM + 20
_FINE: Final = 2
"""Units of a path in a pixel of height."""
_ACROSS: Final = 6
"""Units of a path in a bucket: a pause begins and ends within it."""
_LABELS: Final = 76
"""Pixels of the column with the values."""
_HATCH: Final = 7
_WIDEST: Final = 1_200
"""Pixels between two lines of the hatching, and how far it goes."""
_FAR: Final = 4.0
"""Drawdowns that are so many times as great as the usual one do not make the others' invisible."""


def common_scale(pictures: Sequence[Picture]) -> Scale:
    """Of the drawdowns of all, so that they can be compared at a glance."""
    worst = [step.drawdown for step in (picture.worst for picture in pictures) if step is not None]
    if not worst:
        return axis.scale_from_zero(1.0)
    return axis.scale_from_zero(min(max(worst), max(_FAR * median(worst), 1.0)))


def definitions(picture: Picture) -> Markup:
    """What all charts share: the marks of time, and the hatching of silences.

    It is lines and no pattern, which browsers print as an image of megabytes.
    """
    found = axis.times(picture.since, picture.until, picture.zone, marks=5)
    marks = [mark for mark in found if picture.x(mark.at) < 0.97]  # the end is where the next day begins
    labels = [
        element(
            "text",
            mark.label,
            x=f"{picture.x(mark.at):.2%}",
            y=HEIGHT - 4,
            class_="first" if picture.x(mark.at) < 0.04 else None,
        )
        for mark in marks
    ]
    lines = [
        element("rect", x=f"{picture.x(mark.at):.2%}", y=_BOTTOM, width=1, height=4, class_="k")
        for mark in marks
    ]
    hatching = "".join(f"M{x} {HEIGHT}l{HEIGHT}-{HEIGHT}" for x in range(-HEIGHT, _WIDEST, _HATCH))
    return element(
        "svg",
        element(
            "defs",
            element("path", d=hatching, id="silence"),
            element("g", *lines, *labels, id="time"),
        ),
        class_="defs",
        aria_hidden="true",
        width=0,
        height=0,
    )


def chart(picture: Picture, scale: Scale, name: str) -> Markup:
    """Equity above, drawdown below. scale: of the drawdowns. name: of the path of the equity, for spark()."""
    picture = replace(picture, drawdown=scale)
    width = _units(picture)
    upper = Grid(picture, picture.equity, width, UPPER * _FINE)
    lower = Grid(picture, scale, width, LOWER * _FINE, hanging=True)
    bands = picture.pauses
    silences = [
        element(
            "svg",
            element("use", href="#silence"),
            x=f"{picture.x(silence.since):.2%}",
            y=_TOP,
            width=f"{picture.x(silence.until) - picture.x(silence.since):.2%}",
            height=_BOTTOM - _TOP,
        )
        for silence in picture.silences
    ]
    plot = element(
        "svg",
        *silences,
        _panel(0, _TOP, width, _TOP, _path(Grid(picture, scale, width, _TOP).bands(bands), "t")),
        _panel(
            _TOP,
            UPPER,
            width,
            UPPER * _FINE,
            _path(upper.bands(bands), "p"),
            _path(upper.rules(), "r"),
            _path(upper.range(), "v"),
            None if picture.peak_is_off else _path(upper.peak(), "h"),
            element("path", d=upper.equity(), class_="e", id=name),
        ),
        _panel(
            _BELOW,
            LOWER,
            width,
            LOWER * _FINE,
            _path(lower.bands(bands), "p"),
            _path(lower.below(), "d"),
            _path(lower.rules(), "r"),
        ),
        element("use", href="#time"),
        class_="plot",
        role="img",
        aria_label=words.summary(picture),
        height=HEIGHT,
    )
    return element("div", plot, _values(picture, upper, lower), class_="chart")


def spark(picture: Picture, name: str) -> Markup:
    """The line of the equity alone, in a cell of a table."""
    return element(
        "svg",
        element("use", href=f"#{name}"),
        class_="spark",
        viewBox=f"0 0 {_units(picture)} {UPPER * _FINE}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def bar(part: float) -> Markup:
    """A bar in a cell of a table. part: 0 to 1 of its width."""
    return element(
        "svg",
        element("path", d=f"M0 0h{round(min(1.0, max(0.0, part)) * 100)}v1H0z"),
        class_="bar",
        viewBox="0 0 100 1",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def columns(values: Sequence[float | None]) -> Markup:
    """Columns over and under a line, beside each other. None: there is none."""
    most = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    paths: dict[str, list[str]] = {"up": [], "down": []}
    for place, value in enumerate(values):
        if value:
            height = max(1, round(abs(value) / most * 10))
            paths["up" if value > 0 else "down"].append(
                f"M{place * 10 + 2} 11h6v{-height if value > 0 else height}h-6z"
            )
    return element(
        "svg",
        element("path", d=f"M0 11h{len(values) * 10}", class_="r"),
        *(_path("".join(found), name) for name, found in paths.items()),
        class_="columns",
        viewBox=f"0 0 {len(values) * 10} 22",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _units(picture: Picture) -> int:
    """Of the width."""
    return max(1, round((picture.until - picture.since) / picture.bucket)) * _ACROSS


def _panel(y: int, height: int, columns: int, lines: int, *content: Markup | None) -> Markup | None:
    """In units of its own, that are stretched."""
    inside = joined(*content)
    if not inside:
        return None
    return element(
        "svg", inside, y=y, height=height, viewBox=f"0 0 {columns} {lines}", preserveAspectRatio="none"
    )


def _path(d: str, name: str) -> Markup | None:
    return element("path", d=d, class_=name) if d else None


def _values(picture: Picture, upper: Grid, lower: Grid) -> Markup:
    """The marks of both scales, beside the chart."""
    scales = (
        (picture.equity, upper, _TOP, ""),
        (picture.drawdown, lower, _BELOW, NARROW + "%"),
    )
    labels = [
        element("text", label + unit, x=_LABELS, y=round(top + grid.y(mark) / _FINE + 4))
        for scale, grid, top, unit in scales
        for mark, label in zip(scale.marks, on_axis(scale.marks, scale.step), strict=True)
    ]
    worst = picture.worst
    if worst is not None and worst.drawdown > picture.drawdown.high * 1.001:
        labels[-1] = element("text", f"▼ {percent(worst.drawdown)}", x=_LABELS, y=_BOTTOM + 4, class_="off")
    return element("svg", *labels, class_="values", width=_LABELS, height=HEIGHT, aria_hidden="true")
