"""The short paths lead where the long ones would."""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from itertools import pairwise
from random import Random

import pytest

from risk_worker.picture.curve import Picture, picture_of
from risk_worker.picture.path import Grid, Point, corners
from tests.support.facts import BUCKET, DAY, curve_rows


def points(d: str) -> list[list[Point]]:
    """Each subpath of a path of M, l, h, v, H and z."""
    found: list[list[Point]] = []
    for command, text in re.findall(r"([MlhvHz])([^MlhvHz]*)", d):
        numbers = [int(each) for each in re.findall(r"-?\d+", text)]
        if command == "M":
            found.append([(numbers[0], numbers[1])])
            continue
        if command == "z":
            found[-1].append(found[-1][0])
            continue
        x, y = found[-1][-1]
        pairs = {
            "l": list(zip(numbers[0::2], numbers[1::2], strict=True)) if command == "l" else [],
            "h": [(each, 0) for each in numbers],
            "v": [(0, each) for each in numbers],
            "H": [(each - x, 0) for each in numbers],
        }[command]
        for dx, dy in pairs:
            x, y = x + dx, y + dy
            found[-1].append((x, y))
    return found


def picture(seed: int = 1) -> Picture:
    rows = curve_rows(Random(seed), without=[range(50, 60), range(100, 101)])
    return picture_of("a", rows, (), bucket=BUCKET, since=DAY, until=DAY + timedelta(days=1), zone=UTC)


@pytest.mark.parametrize("seed", range(5))
def test_the_line_of_the_equity_goes_through_each_close(seed: int) -> None:
    made = picture(seed)
    grid = Grid(made, made.equity, 144, 200)
    lines = points(grid.equity())
    assert len(lines) == len(made.lines) == 2
    for line, steps in zip(lines, made.lines, strict=True):
        through = {(grid.x(step)[1], grid.y(step.close)) for step in steps}
        # What is left out is on the way between two others.
        for x, y in through - set(line):
            assert any(
                (x0 <= x <= x1 and y0 == y1 == y) or (x0 == x1 == x and min(y0, y1) <= y <= max(y0, y1))
                for (x0, y0), (x1, y1) in pairwise(line)
            )
        assert line[0] == (grid.x(steps[0])[0], grid.y(steps[0].open))
        assert line[-1] == (grid.x(steps[-1])[1], grid.y(steps[-1].close))


def test_areas_are_closed_and_inside() -> None:
    made = picture()
    for grid, d in (
        (upper := Grid(made, made.equity, 144, 200), upper.range()),
        (lower := Grid(made, made.drawdown, 144, 80, hanging=True), lower.below()),
    ):
        for area in points(d):
            assert area[0] == area[-1]
            assert all(0 <= x <= grid.width and 0 <= y <= grid.height for x, y in area)
    deepest = max(y for area in points(lower.below()) for _, y in area)
    worst = made.worst
    assert worst is not None
    assert deepest == lower.y(worst.drawdown)


def test_a_step_goes_on_until_the_next() -> None:
    assert list(corners([(0, 2, 5), (4, 6, 5), (6, 7, 1)])) == [
        *((0, 5), (2, 5), (4, 5), (4, 5), (6, 5), (6, 5), (6, 1), (7, 1)),
    ]


def test_a_page_has_short_paths() -> None:
    made = picture()
    grid = Grid(made, made.equity, 144, 200)
    assert len(grid.equity()) < 144 * 7
    assert len(grid.range()) < 144 * 14
    assert not re.search(r"[^MlhvHz\d -]", grid.equity() + grid.range() + grid.peak())
