"""Starts one worker after another in no time: a process that has everything imported forks them.

    python -m tests.support.template

For each line that it reads it forks a worker and says its pid, and after that how the worker ended. The
database has to be migrated: the workers do not.
"""

from __future__ import annotations

import os
import signal
import sys
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Self

from risk_producer.settings import Settings
from risk_worker import migrations, rq_worker


class Template:
    """The process, as a test sees it. A context manager."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._process = Popen(
            [sys.executable, "-m", "tests.support.template"],
            env={**os.environ, **environ},
            stdin=PIPE,
            stdout=PIPE,
            text=True,
        )
        self._running: int | None = None

    def start(self) -> int:
        """A new worker; its pid. The one before must have ended."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._running = self._said()
        return self._running

    def ended(self) -> int:
        """Wait for the worker's end; its exit status, or -signal."""
        status = self._said()
        self._running = None
        return status

    def _said(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            os.kill(self._running, signal.SIGKILL)
        self._process.communicate(timeout=10)


def main() -> None:
    settings = Settings.load()
    migrations.wait_for = migrations.up = lambda *_: ""  # type: ignore[assignment]
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # RQ's log
            try:
                rq_worker.run(settings)
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
