"""The picture as an SVG file: of itself alone, 960 by 520."""

from __future__ import annotations

from typing import Final

from risk_worker.picture import axis, words
from risk_worker.picture.curve import Picture, Span
from risk_worker.picture.figures import on_axis
from risk_worker.picture.markup import Markup, element, joined
from risk_worker.picture.path import Grid

WIDTH: Final = 960
HEIGHT: Final = 520
_LEFT, _RIGHT, _TOP = 24, 100, 84
_UPPER, _BETWEEN, _LOWER = 250, 26, 96
"""Heights of the panels, and what is between them."""
_INNER: Final = WIDTH - _LEFT - _RIGHT
_FINE: Final = 4
"""Units of a path in a pixel."""
_LABEL: Final = 64
"""Pixels that a label in the picture needs."""
_CSS: Final = Markup(
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
    "font-variant-numeric:tabular-nums;fill:#4d5661}"
    ".title{font-size:20px;font-weight:600;fill:#15181c}.strong{fill:#15181c;font-weight:600}"
    ".end{text-anchor:end}.middle{text-anchor:middle}"
    ".rule{stroke:#dde1e6;fill:none}.axis{stroke:#8a939e;fill:none}"
    ".pause{fill:#f3b63a;fill-opacity:.32}.bar{fill:#a86a00}.silence{fill:url(#silence)}"
    ".range{fill:#1b4f8a;fill-opacity:.22}.equity{stroke:#1b4f8a;stroke-width:1.75;fill:none;"
    "stroke-linejoin:round}.peak{stroke:#4d5661;stroke-dasharray:5 3;fill:none}"
    ".below{fill:#c2512a;fill-opacity:.55}.over{paint-order:stroke;stroke:#fff;stroke-width:4px;"
    "stroke-linejoin:round}.note{font-size:12px}"
)


def draw(picture: Picture) -> str:
    """An SVG document."""
    upper = Grid(picture, picture.equity, _INNER * _FINE, _UPPER * _FINE)
    lower = Grid(picture, picture.drawdown, _INNER * _FINE, _LOWER * _FINE, hanging=True)
    below = _TOP + _UPPER + _BETWEEN
    body = [
        element("title", words.heading(picture)),
        element("desc", words.summary(picture)),
        element("style", _CSS),
        _hatch(),
        element("rect", width=WIDTH, height=HEIGHT, fill="#fff"),
        element("text", words.cut_name(picture.trader), x=_LEFT, y=34, class_="title"),
        element("text", words.figures(picture), x=_LEFT, y=58),
        _panel(
            _TOP,
            element("path", d=upper.bands(picture.silences), class_="silence"),
            element("path", d=upper.bands(picture.pauses), class_="pause"),
            element("path", d=upper.rules(), class_="rule", stroke_width=_FINE),
            element("path", d=upper.range(), class_="range"),
            None if picture.peak_is_off else _stroke(upper.peak(), "peak"),
            _stroke(upper.equity(), "equity"),
        ),
        *(
            element("rect", x=x, y=_TOP - 4, width=width, height=4, class_="bar")
            for x, width in map(_pixels, [picture] * len(picture.pauses), picture.pauses)
        ),
        _panel(
            below,
            element("path", d=lower.bands(picture.silences), class_="silence"),
            element("path", d=lower.bands(picture.pauses), class_="pause"),
            element("path", d=lower.rules(), class_="rule", stroke_width=_FINE),
            element("path", d=lower.below(), class_="below"),
        ),
        _labels(picture.equity, upper, _TOP),
        _labels(picture.drawdown, lower, below, " %"),
        element("text", "equity", x=WIDTH - _LEFT, y=_TOP - 10, class_="end strong"),
        element("text", "drawdown", x=WIDTH - _LEFT, y=below - 10, class_="end strong"),
        _times(picture, below + _LOWER),
        *_names(picture),
        element("text", words.note(picture), x=_LEFT, y=HEIGHT - 14, class_="note"),
    ]
    whole = element(
        "svg",
        *body,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=HEIGHT,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
    return f"{whole}\n"


def _panel(top: int, *content: Markup | None) -> Markup:
    return element("g", *content, transform=f"translate({_LEFT} {top}) scale({1 / _FINE:g})")


def _stroke(d: str, name: str) -> Markup:
    return element("path", d=d, class_=name, vector_effect="non-scaling-stroke")


def _hatch() -> Markup:
    line = element("path", d="M0 32L32 0", stroke="#9aa3ad", stroke_width=_FINE)
    return element(
        "defs", element("pattern", line, id="silence", width=32, height=32, patternUnits="userSpaceOnUse")
    )


def _labels(scale: axis.Scale, grid: Grid, top: int, unit: str = "") -> Markup:
    return joined(
        *(
            element("text", label + unit, x=WIDTH - _LEFT, y=top + grid.y(mark) / _FINE + 4, class_="end")
            for mark, label in zip(scale.marks, on_axis(scale.marks, scale.step), strict=True)
        )
    )


def _times(picture: Picture, bottom: int) -> Markup:
    found = [element("path", d=f"M{_LEFT} {bottom + 0.5}h{_INNER}", class_="axis")]
    for mark in axis.times(picture.since, picture.until, picture.zone):
        x = _LEFT + picture.x(mark.at) * _INNER
        found.append(element("path", d=f"M{x:.1f} {bottom}v6", class_="axis"))
        place = "middle" if x > _LEFT + 16 else None
        found.append(element("text", mark.label, x=round(x, 1), y=bottom + 22, class_=place))
    return joined(*found)


def _names(picture: Picture) -> list[Markup]:
    """What a band or a line is, where there is room for it."""
    found = []
    for name, spans in (("paused", picture.pauses), ("no snapshot", picture.silences)):
        for x, width in (_pixels(picture, span) for span in spans):
            if width >= _LABEL * len(name) / 8:
                middle = round(x + width / 2, 1)
                found.append(element("text", name, x=middle, y=_TOP + _UPPER - 8, class_="middle over"))
    last = picture.last
    if last is not None:
        text = words.peak(picture)
        x = round(_LEFT + picture.x(last.until) * _INNER - 4, 1)
        y = max(round(_TOP + (1 - picture.equity.at(last.peak)) * _UPPER - 6, 1), _TOP + 12.0)
        found.append(element("text", text, x=x, y=y, class_="end over"))
    return found


def _pixels(picture: Picture, span: Span) -> tuple[float, float]:
    """Where it begins, and how wide it is."""
    first = _LEFT + picture.x(span.since) * _INNER
    return round(first, 1), round(max(1.0, _LEFT + picture.x(span.until) * _INNER - first), 1)
