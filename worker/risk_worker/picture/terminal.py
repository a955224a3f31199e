"""The picture for a terminal: dots of Braille characters, without colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from risk_worker.picture import axis, words
from risk_worker.picture.axis import Scale
from risk_worker.picture.curve import Picture, Span
from risk_worker.picture.figures import on_axis

_UPPER: Final = 12
_LOWER: Final = 5
"""Lines of text of the panels."""
_LEAST, _MOST = 24, 240
"""Columns that the picture itself has."""
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Of a character, by column and line."""
_NEEDED: Final = "⠿┤└┬─━╌…–·− "


class _Canvas:
    """Dots, two columns and four lines of them to a character."""

    def __init__(self, columns: int, lines: int) -> None:
        self.width, self.height = columns * 2, lines * 4
        self._cells = [[0] * columns for _ in range(lines)]

    def dots(self, x: int, first: int, last: int) -> None:
        """In a column of dots, from a line to another one."""
        for y in range(min(first, last), max(first, last) + 1):
            self._cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]

    def line(self, y: int) -> str:
        """A line of text."""
        return "".join(chr(0x2800 + cell) if cell else " " for cell in self._cells[y])


def can_be_shown(encoding: str) -> bool:
    """Whether a terminal of that encoding has the characters."""
    try:
        _NEEDED.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def draw(picture: Picture, columns: int) -> Iterator[str]:
    """Lines of text, as wide as the terminal."""
    money = on_axis(picture.equity.marks, picture.equity.step)
    percents = [f"{label} %" for label in on_axis(picture.drawdown.marks, picture.drawdown.step)]
    left = max(map(len, [*money, *percents, "no snapshot", "drawdown"]))
    width = min(max(columns - left - 3, _LEAST), _MOST)
    yield f"{words.cut_name(picture.trader).translate(_VISIBLE)}\n{words.figures(picture)}\n\n"
    yield f"{'equity':>{left}}\n"
    yield from _panel(_equity(picture, width), picture.equity, money, left, hanging=False)
    yield _strip(picture, picture.pauses, "paused", "━", left, width)
    yield _strip(picture, picture.silences, "no snapshot", "╌", left, width)
    yield f"{'drawdown':>{left}}\n"
    yield from _panel(_drawdown(picture, width), picture.drawdown, percents, left, hanging=True)
    yield from _times(picture, left, width)
    yield (
        f"\n{words.peak(picture)} (dotted). {words.note(picture)}\n"
        if picture.last
        else f"{words.note(picture)}\n"
    )


class _Visible(dict[int, str]):
    """For str.translate(): what cannot be seen, by its number."""

    def __missing__(self, key: int) -> str:
        character = chr(key)
        return character if character.isprintable() else ascii(character)[1:-1]


_VISIBLE: Final = _Visible()


def _equity(picture: Picture, width: int) -> _Canvas:
    canvas = _Canvas(width, _UPPER)

    def y(value: float) -> int:
        return round((1 - picture.equity.at(value)) * (canvas.height - 1))

    for line in picture.lines:
        before: tuple[int, int] | None = None
        for step in line:
            first, last = _columns(picture, Span(step.since, step.until), canvas.width)
            start = before or (first, y(step.open))
            for x in range(start[0], last + 1):  # on the way to the end of the step
                part = (x - start[0]) / max(1, last - start[0])
                at = round(start[1] + part * (y(step.close) - start[1]))
                canvas.dots(x, at, at)
            canvas.dots(last, y(step.low), y(step.high))
            canvas.dots(last, start[1] if last == start[0] else y(step.close), y(step.close))
            if not picture.peak_is_off:
                for x in range(first, last + 1):
                    if x % 4 == 0:
                        canvas.dots(x, y(step.peak), y(step.peak))
            before = last, y(step.close)
    return canvas


def _drawdown(picture: Picture, width: int) -> _Canvas:
    canvas = _Canvas(width, _LOWER)
    for line in picture.lines:
        for step in line:
            first, last = _columns(picture, Span(step.since, step.until), canvas.width)
            deep = round(picture.drawdown.at(step.drawdown) * (canvas.height - 1))
            for x in range(first, last + 1) if deep else ():
                canvas.dots(x, 0, deep)
    return canvas


def _columns(picture: Picture, span: Span, width: int) -> tuple[int, int]:
    """The first and the last column of a span."""
    first = min(int(picture.x(span.since) * width), width - 1)
    return first, max(first, min(int(picture.x(span.until) * width), width) - 1)


def _panel(
    canvas: _Canvas, scale: Scale, labels: Sequence[str], left: int, *, hanging: bool
) -> Iterator[str]:
    lines = canvas.height // 4
    marked = {}
    for mark, label in zip(scale.marks, labels, strict=True):
        at = scale.at(mark)
        marked[round((at if hanging else 1 - at) * (canvas.height - 1)) // 4] = label
    for number in range(lines):
        label = marked.get(number, "")
        yield f"{label:>{left}} {'┤' if label else '│'}{canvas.line(number)}".rstrip() + "\n"


def _strip(picture: Picture, spans: Iterable[Span], name: str, sign: str, left: int, width: int) -> str:
    cells = [" "] * width
    for span in spans:
        first, last = _columns(picture, span, width)
        cells[first : last + 1] = [sign] * (last + 1 - first)
    return f"{name:>{left}} │{''.join(cells)}".rstrip() + "\n"


def _times(picture: Picture, left: int, width: int) -> Iterator[str]:
    marks = axis.times(picture.since, picture.until, picture.zone, marks=max(2, width // 10))
    rule, labels = ["─"] * width, [" "] * width
    free = 0
    for mark in marks:
        x = min(int(picture.x(mark.at) * width), width - 1)
        rule[x] = "┬"
        first = min(max(0, x - len(mark.label) // 2), width - len(mark.label))
        if first >= free:
            labels[first : first + len(mark.label)] = mark.label
            free = first + len(mark.label) + 1
    yield f"{'':>{left}} └{''.join(rule)}\n"
    yield f"{'':>{left}}  {''.join(labels)}".rstrip() + "\n"
