"""What a metric is in the catalogue: its name, its labels, its meaning, and what to do when it moves."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric, as Prometheus knows it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    action: str
    """What to do when it moves, and how it moves then."""

    @property
    def help(self) -> str:
        """One line for Prometheus."""
        return f"{self.meaning} {self.action}"
