"""Who takes how much of the processors."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from benchmarks.servers import Servers


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
    """The servers' processor time from now on."""

    def __init__(self, servers: Servers) -> None:
        self._pids = servers.postgres.pid, servers.valkey.pid
        self._began = [_seconds(pid) for pid in self._pids]

    def read(self, rows: int, worker_s: float) -> CpuTime:
        """What the servers took since then, beside what the workers say of themselves."""
        postgres, redis = (_seconds(pid) - began for pid, began in zip(self._pids, self._began, strict=True))
        return CpuTime(*(seconds / rows * 1e6 for seconds in (worker_s, postgres, redis)))


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
