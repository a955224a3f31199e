"""Waiting for a condition, with a bound, instead of sleeping and hoping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A test that waits in vain says so before pytest-timeout ends the whole process.
_LONGEST_S = 120.0


def slowness() -> float:
    """How many times longer things may take than on an idle machine: 4 to 10, by the load of the last minute.

    4 at least: another machine is slower than this one, and its load is a minute late to be seen.
    """
    return min(10.0, max(4.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Call predicate until its answer is true, and return that. AssertionError after timeout_s.

    timeout_s is for a machine that has a processor for whatever wants to run; see slowness().
    """
    timeout_s = min(timeout_s * slowness(), max(timeout_s, _LONGEST_S))
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}; last answer: {answer!r}")
        time.sleep(0.01)
