"""Child processes of tests: real ones, ended by their own pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil  # type: ignore[import-untyped]

from tests.support.wait import slowness


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that has to do with a folder: by its command line, its environment, or where it is."""
    found = []
    for process in psutil.process_iter():
        try:
            texts = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in text for text in texts):
            found.append(process)
    return found


class ChildProcess:
    """A command in a process of its own, its output in a file; by default a worker.

    A context manager that kills the process where it still runs."""

    def __init__(
        self,
        log: Path,
        environ: Mapping[str, str],
        command: Sequence[str | Path] = (),
        *,
        host: Callable[[], AbstractContextManager[object]] = nullcontext,
        **options: Any,
    ) -> None:
        """environ: beside this process's own without riskstream's settings. host: it is started within that.

        options: of Popen, as stdin=PIPE or start_new_session=True; stdout and stderr other than the file."""
        self._log = log
        self._host = host
        self._options = options
        self._environ = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith(("RISK_", "DB_", "REDIS_", "POSTGRES"))
            },
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        self._command = list(command) or [sys.executable, "-m", "risk_worker", "worker"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self._log.open("ab") as log, self._host():
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = subprocess.Popen(self._command, env=self._environ, **{**files, **self._options})
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Write to its standard input, which is a pipe."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output, which is a pipe."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        try:
            return self._process.wait(timeout_s * slowness())
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s; its log:\n{self.log}") from None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self.running:
                self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
