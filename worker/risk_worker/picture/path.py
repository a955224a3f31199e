"""The paths of a picture in SVG, on a grid of whole numbers: short, as a page may have hundreds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from risk_worker.picture.axis import Scale
from risk_worker.picture.curve import Picture, Span, Step

Point = tuple[int, int]


class Grid:
    """A panel of the picture: so many units wide and high.

    hanging: the scale's low end is on top, as of drawdowns.
    """

    def __init__(
        self, picture: Picture, scale: Scale, width: int, height: int, *, hanging: bool = False
    ) -> None:
        self.scale, self.width, self.height = scale, width, height
        self._picture, self._hanging = picture, hanging
        self._lines = [[(step, *self.x(step)) for step in line] for line in picture.lines]

    def x(self, span: Span | Step) -> tuple[int, int]:
        """Where it begins and ends; at least a unit."""
        first = round(self._picture.x(span.since) * self.width)
        return first, max(first + 1, round(self._picture.x(span.until) * self.width))

    def y(self, value: float) -> int:
        """From the top."""
        at = self.scale.at(value)
        return round((at if self._hanging else 1 - at) * self.height)

    def equity(self) -> str:
        """A line through the last equity of each step."""
        return "".join(_line(self._closes(line)) for line in self._lines)

    def range(self) -> str:
        """The area between the lowest and the highest equity of each step."""
        return "".join(
            _area([(first, last, self.y(step.high), self.y(step.low)) for step, first, last in line])
            for line in self._lines
        )

    def peak(self) -> str:
        """The line of the greatest equity so far."""
        return "".join(
            _line(corners((first, last, self.y(step.peak)) for step, first, last in line))
            for line in self._lines
        )

    def below(self) -> str:
        """The area between no drawdown and the worst of each step."""
        top = self.y(0.0)
        return "".join(
            _area([(first, last, top, self.y(step.drawdown)) for step, first, last in line])
            for line in self._lines
        )

    def bands(self, spans: Iterable[Span]) -> str:
        """Rectangles over the whole height."""
        found = []
        for span in spans:
            first, last = self.x(span)
            found.append(f"M{first} 0h{last - first}v{self.height}H{first}z")
        return "".join(found)

    def rules(self) -> str:
        """A line across at each mark of the scale."""
        return "".join(f"M0 {self.y(mark)}h{self.width}" for mark in self.scale.marks)

    def _closes(self, line: Sequence[tuple[Step, int, int]]) -> Iterator[Point]:
        end = None
        for step, first, last in line:
            if first != end:
                yield first, self.y(step.open)
            yield last, self.y(step.close)
            end = last


def corners(steps: Iterable[tuple[int, int, int]]) -> Iterator[Point]:
    """(begin, end, y) of steps -> the corners of the line along them. Between two steps the first goes on."""
    before: Point | None = None
    for first, last, y in steps:
        if before is not None:
            yield first, before[1]
        yield first, y
        yield last, y
        before = last, y


def _area(steps: Sequence[tuple[int, int, int, int]]) -> str:
    """(begin, end, upper y, lower y) of steps."""
    if not steps:
        return ""
    upper = list(corners((first, last, high) for first, last, high, _ in steps))
    lower = list(corners((first, last, low) for first, last, _, low in steps))
    return _line([*upper, *reversed(lower)]) + "z"


def _line(points: Iterable[Point]) -> str:
    """Each point as the way from the one before, what is in a row put together."""
    kept: list[Point] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        while len(kept) > 1 and _straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    if not kept:
        return ""
    words = [f"M{kept[0][0]} {kept[0][1]}"]
    command = ""
    for (x0, y0), (x1, y1) in pairwise(kept):
        dx, dy = x1 - x0, y1 - y0
        if dx and dy:
            pair = f"{dx}{dy}" if dy < 0 else f"{dx} {dy}"
            words.append(pair if command == "l" and dx < 0 else f" {pair}" if command == "l" else f"l{pair}")
            command = "l"
        else:
            command = "h" if dx else "v"
            words.append(f"{command}{dx or dy}")
    return "".join(words)


def _straight(first: Point, second: Point, third: Point) -> bool:
    """Whether the second is on the way from the first to the third, along an axis."""
    return (first[0] == second[0] == third[0] and (second[1] - first[1]) * (third[1] - second[1]) > 0) or (
        first[1] == second[1] == third[1] and (second[0] - first[0]) * (third[0] - second[0]) > 0
    )
