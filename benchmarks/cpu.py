"""Who takes how much of the processors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True)
class CpuTime:
    """Microseconds a row, user and system, all threads and processes of each."""

    worker: float
    postgres: float
    redis: float

    @property
    def all(self) -> float:
        """What decides where workers and servers share the cores."""
        return self.worker + self.postgres + self.redis


class Clock:
    """The processor time of processes, by the name of the part that they are, from now on."""

    def __init__(self, **parts: Iterable[int]) -> None:
        self._parts = {name: list(pids) for name, pids in parts.items()}
        self._began_s = self._seconds()
        self._began = perf_counter()

    def read_us(self, rows: int) -> dict[str, float]:
        """Microseconds of each part for each of so many rows."""
        return {name: (now - self._began_s[name]) / rows * 1e6 for name, now in self._seconds().items()}

    @property
    def took_s(self) -> float:
        """Since the beginning, by the clock on the wall."""
        return perf_counter() - self._began

    def _seconds(self) -> dict[str, float]:
        return {name: sum(map(_seconds, pids)) for name, pids in self._parts.items()}


def _seconds(pid: int) -> float:
    """Of a process and its children, also of those that have ended (not on macOS, which does not tell)."""
    root = psutil.Process(pid)
    times = root.cpu_times()
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total
