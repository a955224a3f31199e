"""Runs the drain or a worker, and ends the process at one point of it, as if its power had gone.

    python tests/support/crash.py POINT drain
    python tests/support/crash.py POINT worker

A point is "before" or "after" a function (also when it raises), and which of its calls:
"after risk_worker.store:_copy#2". The functions are wrapped from here, so the product knows nothing of it.
The status is 137 when the point was reached, 0 when the program came to its end without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

CRASHED = 137  # as a process killed for its memory


def crash_at(point: str) -> None:
    """Wrap the function that the point names."""
    when, _, where = point.partition(" ")
    where, _, nth = where.partition("#")
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    setattr(owner, name, _dying(getattr(owner, name), at_start=when == "before", nth=int(nth or 1)))


def _dying(function: Callable[..., Any], *, at_start: bool, nth: int) -> Callable[..., Any]:
    calls = 0
    lock = Lock()  # some points are passed by two threads

    @wraps(function)
    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            this = calls
        if at_start and this == nth:
            os._exit(CRASHED)
        try:
            return function(*args, **kwargs)
        finally:
            if this == nth:
                os._exit(CRASHED)

    return dying


def main() -> None:
    point, what = sys.argv[1:]
    crash_at(point)
    if what == "drain":
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from tests.support.books import drain_all

        drain_all(os.environ["REDIS_URL"], os.environ["POSTGRES_URL"], batch_size=20)
    else:
        from risk_worker import jobs
        from risk_worker.cli import cli

        jobs.SHIFT_S = 0.5  # type: ignore[misc]  # to come to the end of one
        jobs.Roster.LOCK_S = 0.5  # type: ignore[misc]  # what the one before died with
        cli([what])


if __name__ == "__main__":
    main()
