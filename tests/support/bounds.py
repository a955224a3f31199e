"""The bounds of docs/reliability.md: the page has the promise, and a test measures it.

A row of its table that has seconds in the column "at most" is a promise. A test names it by its first cell:

    bound("a worker joins", seconds)

It allows for a slow machine; with RISK_TEST_BOUNDS=1, as in `make bounds`, for nothing more than the promise,
and the page gets what was seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.support.wait import slowness

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
PROPERTY: Final = "bound"
STRICT: Final = bool(os.environ.get("RISK_TEST_BOUNDS"))
_ROW: Final = re.compile(
    r"^\| ([^|\n]+) \| ([^|\n]+) \| (\d+(?:\.\d+)?) s\b([^|\n]*) \| ([^|\n]*?) ?\| ([^|\n]+) \|$", re.M
)
_MEASURED: Final = re.compile(r"^Measured by `make bounds` .*$", re.M)

Seen = Mapping[str, Sequence[float]]
"""When (a row's first cell) -> seconds, of each test that measures it."""


def promises(page: str) -> dict[str, float]:
    """When -> the seconds in which it is over at the most."""
    return {when: float(most_s) for when, _, most_s, *_ in _ROW.findall(page)}


def written(page: str, seen: Seen) -> str:
    """The page with what was seen: the longest of each row. A row that was not measured keeps what it has."""

    def row(match: re.Match[str]) -> str:
        when, then, most_s, more, before, test = match.groups()
        longest = f"{max(seen[when]):.1f} s" if when in seen else before
        return f"| {when} | {then} | {most_s} s{more} | {longest} | {test} |"

    day, cores = f"{datetime.now(UTC):%Y-%m-%d}", os.cpu_count()
    about = f"Measured by `make bounds` on {day}, {cores} cores: the longest that a test of the row saw."
    return _MEASURED.sub(about, _ROW.sub(row, page))


class Bound:
    """What a test calls with what it has measured."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node
        self._promises = promises(PAGE.read_text())
        self._missed: list[str] = []

    def __call__(self, when: str, seen_s: float) -> None:
        most_s = self._promises[when]
        self._node.user_properties.append((PROPERTY, [when, seen_s]))
        if seen_s >= most_s * (1 if STRICT else slowness()):
            self._missed.append(f"{when}: {seen_s:.2f} s, and {most_s:g} s is promised")

    def check(self) -> None:
        """After the test, so that all of it is measured."""
        assert not self._missed, "; ".join(self._missed)
