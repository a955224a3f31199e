"""One way to get snapshots out of Redis into Postgres: how it is sent to, how its worker is started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks.process import CHECKOUT
from benchmarks.servers import Servers


@dataclass(frozen=True)
class Promise:
    """What its sources and its documentation say, in words for a table."""

    acknowledged: str
    refused: str
    """What becomes of a batch that Postgres refuses, or cannot take now."""
    order: str
    bound: str
    """Of what waits in Redis."""


@dataclass(frozen=True)
class Peer:
    """It stores into risk_state_history and risk_state."""

    name: str
    command: Sequence[str]
    send: Callable[[Servers, Sequence[bytes]], None]
    promise: Promise
    share: float
    """Of the rows of a run, as slow ones would take minutes."""
    watched_s: float = 25
    """How long it is watched after a crash, until what was in hand is stored."""


class Worker:
    """A worker's processes: started, held, killed."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the first of them."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the first does."""
        return self._process.poll() is None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stopped, so that they take nothing off the queue, and stay connected."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """All of them, with SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
