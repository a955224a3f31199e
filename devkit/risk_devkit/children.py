"""Processes that the demo and `riskstream up` start: their environment, their logs, and their end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from risk_devkit.embedded import Watchdog
from risk_producer.settings import without_settings

STOP_TIMEOUT_S: Final = 15.0


class Child:
    """A process with a log, in a session of its own: a Ctrl-C in the terminal reaches only us."""

    def __init__(self, name: str, module: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """module: one that Python runs (python -m), and its arguments."""
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._watchdog = Watchdog(self._process.pid, signal.SIGTERM)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        self._watchdog.dismiss()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help. May be called again."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._watchdog.dismiss()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.splitlines()[-lines:])


def environment(redis_url: str, database_url: str, *, dashboard: bool = False) -> dict[str, str]:
    """Ours, without any setting, and with these servers: a child must never meet a database of another.

    dashboard: with the login of the dashboard, which no other child needs.
    """
    login = {name: value for name, value in os.environ.items() if name.startswith("RQ_DASHBOARD_")}
    return {
        **without_settings(os.environ),
        **(login if dashboard else {}),
        "REDIS_URL": redis_url,
        "POSTGRES_URL": database_url,
    }


def exports(redis_url: str, database_url: str) -> list[str]:
    """The lines for another terminal, after which commands and bots use these servers."""
    return [f"export REDIS_URL={shlex.quote(redis_url)}", f"export POSTGRES_URL={shlex.quote(database_url)}"]


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP interrupt like Ctrl-C, the first of them alone, and none any more once the function
    given is called."""

    def interrupt(*_: object) -> None:
        ignore()
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield ignore
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def is_free(port: int) -> bool:
    """Whether no process listens on this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
