"""Time that a test moves."""

from __future__ import annotations


class FakeClock:
    """Stands still until the test moves it: a clock as the product takes one, called for the seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
