"""Starts one program after another in no time: a process that has everything imported forks them.

A program may be told to end at one point of it, as if its power had gone: see crash_at().
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from subprocess import PIPE
from threading import Lock
from types import TracebackType
from typing import Any, Self

from risk_worker.cli import cli
from risk_worker.database import migrations
from risk_worker.runtime.scheduler import DrainScheduler
from risk_worker.runtime.time_slice import TimeSlice
from tests.support.ledger import drain_all
from tests.support.process import ChildProcess

CRASHED = 137  # as a process killed for its memory


class Template:
    """The process, as a test sees it. A context manager. One program at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.template"]
        pipes: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "stderr": None}
        self._process = ChildProcess(Path(os.devnull), {}, command, **pipes).start()
        self._running: int | None = None

    def start(self, program: str, log: Path, environ: dict[str, str], *, crash_at: str = "") -> int:
        """Start a program of PROGRAMS, its output in a file. Returns its pid."""
        assert self._running is None
        order = {"program": program, "log": str(log), "environ": environ, "crash_at": crash_at}
        self._process.write(json.dumps(order).encode() + b"\n")
        self._running = self._said(10)
        return self._running

    def ended(self, timeout_s: float = 20) -> int:
        """Wait for the program's end; its exit status, or -signal."""
        status = self._said(timeout_s)
        self._running = None
        return status

    def stop(self) -> None:
        """End the program, if it runs, whatever it does."""
        if self._running is not None:
            os.kill(self._running, signal.SIGKILL)
            self.ended()

    def _said(self, timeout_s: float) -> int:
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        assert ready, f"still running after {timeout_s} s"
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._process.__exit__(kind, error, trace)


def _drain() -> None:
    drain_all(os.environ["REDIS_URL"], os.environ["POSTGRES_URL"], batch_size=40)


def _worker() -> None:
    """With short time slices and a short transit grace period, so that both end within the test."""
    TimeSlice.LENGTH_S = 0.5
    DrainScheduler.TRANSIT_S = 0.3  # type: ignore[misc]
    cli(["worker"])


def _worker_of_a_migrated_database() -> None:
    migrations.up = lambda *_, **__: ""
    cli(["worker"])


PROGRAMS = {
    "drain": _drain,
    "worker": _worker,
    "worker of a migrated database": _worker_of_a_migrated_database,
}


def crash_at(point: str) -> None:
    """Let this process end when it comes to a point: "before" or "after" a function (also when it raises),
    and which of its calls: "after risk_worker.database.store:_copy#2".

    The function is wrapped from here, so the product knows nothing of it. The status is CRASHED then.
    """
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


def _run(order: dict[str, Any]) -> int:
    """In the fork. Returns the exit status."""
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.environ.update(order["environ"])
    try:
        if order["crash_at"]:
            crash_at(order["crash_at"])
        PROGRAMS[order["program"]]()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """An order a line: fork, say the pid, and after that how it ended."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_run(json.loads(line)))
        print(pid, flush=True)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
