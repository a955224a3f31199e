"""Waiting for a condition, with a bound, instead of sleeping and hoping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def slowness() -> float:
    """How many times longer things take than on an idle machine: 1 to 10, by the load of the last minute."""
    return min(10.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Call predicate until its answer is true, and return that. AssertionError after timeout_s.

    timeout_s is for a machine that has a processor for whatever wants to run; see slowness().
    """
    timeout_s *= slowness()
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}; last answer: {answer!r}")
        time.sleep(0.01)
