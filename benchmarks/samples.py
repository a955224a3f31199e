"""What was measured: the name of each measure, and its value in each run."""

from __future__ import annotations

import sys
from statistics import median


class Samples:
    """Measures in the order in which they first came."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        """One more run of a measure. stderr shows it, so that a user who waits sees the progress."""
        self.values.setdefault(name, []).append(value)
        print(f"{name} {shown(value)}", file=sys.stderr, flush=True)

    def compare(self, name: str, measure: str, yardstick: str) -> None:
        """The ratio of two measures run by run: what slows the whole machine for a while leaves it alone."""
        pairs = zip(self.values[measure], self.values[yardstick], strict=True)
        self.values[name] = [value / other for value, other in pairs]

    def medians(self) -> dict[str, float]:
        """name -> median of the runs."""
        return {name: median(values) for name, values in self.values.items()}


def shown(value: float) -> str:
    """With as many digits as mean something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
