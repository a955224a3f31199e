"""Exporter and dashboard while 900 clients do what a client should not, and one asks as Prometheus does."""

from __future__ import annotations

import re
import resource
import selectors
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
import pytest
import redis

from risk_producer.contract.keys import Keys
from risk_worker.web.server import Limits
from tests.support.bounds import STRICT, Bound
from tests.support.factory import payload
from tests.support.process import ChildProcess
from tests.support.rq import fill
from tests.support.wait import wait_until
from tests.support.web import get

pytestmark = pytest.mark.system

CLIENTS = 900
SECONDS = 12.0
"""Longer than a request may take to arrive, so that each limit is met."""
# One that waits for clients, one that reads Redis, and what redis-py and asyncio have.
THREADS_MAX = Limits().threads + 8
MIB = 1 << 20
GROWTH_MAX = 256 * MIB
"""Unread answers, pages in the making, and what 512 clients take: 172 MiB after 12 s, 176 after 48."""

Kind = tuple[bytes, bytes]
"""What a client sends at first, and what it sends again and again; it never reads."""


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Each client is an open file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd(threading.Thread):
    """Clients of several kinds, each of them there again as soon as it was turned away."""

    def __init__(self, port: int, kinds: list[Kind]) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._kinds = kinds
        self._selector = selectors.DefaultSelector()
        self._end = threading.Event()
        self.turned_away = 0
        self.connected = 0

    def run(self) -> None:
        missing = [self._kinds[number % len(self._kinds)] for number in range(CLIENTS)]
        while not self._end.wait(0.5):
            for kind in missing:
                self._connect(kind)
            missing = []
            for key, _ in self._selector.select(0):
                # Without a read: a client that was turned away cannot be written to.
                client: Any = key.fileobj
                try:
                    client.send(key.data[1])
                except BlockingIOError:
                    continue
                except OSError:
                    self._selector.unregister(client)
                    client.close()
                    self.turned_away += 1
                    self.connected -= 1
                    missing.append(key.data)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _connect(self, kind: Kind) -> None:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", self._port))
        self._selector.register(client, selectors.EVENT_WRITE, kind)
        self.connected += 1
        first, _ = kind
        wait_until(lambda: _sent(client, first), 20)

    def stop(self) -> None:
        self._end.set()
        self.join(60)


def _sent(client: socket.socket, data: bytes) -> bool:
    try:
        client.send(data)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def crowd(port: int, kinds: list[Kind]) -> Iterator[Crowd]:
    clients = Crowd(port, kinds)
    clients.start()
    try:
        wait_until(lambda: clients.connected >= CLIENTS, 30, "900 clients")
        yield clients
    finally:
        clients.stop()


def kinds(path: str) -> list[Kind]:
    """Clients that ask for this page, or never come to it."""
    head = get(path)[:-2]
    return [
        (b"", b""),  # says nothing
        (b"G", b""),  # half open
        (head, b"X"),  # a byte at a time
        (head, b"X-Long: " + b"x" * 1000 + b"\r\n"),  # headers without an end
        (get(path), b""),  # reads nothing
        (get(path, "Accept-Encoding: gzip"), b""),
        (get(path) * 200, get(path) * 20),  # asks again before it has read
        (get(path, method="POST", body=b"x" * 100)[:-50], b"x"),  # a body that is slow
    ]


class Watched(threading.Thread):
    """What a process has at the most, within the block."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self.before = self._process.memory_info().rss
        self.threads = self.rss = self.files = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(60)

    def run(self) -> None:
        while not self._end.wait(0.02):
            self._look()

    def _look(self) -> None:
        self.threads = max(self.threads, self._process.num_threads())
        self.rss = max(self.rss, self._process.memory_info().rss)
        self.files = max(self.files, self._process.num_fds())

    @property
    def growth(self) -> int:
        return int(self.rss - self.before)


def ask_for(seconds: float, port: int, path: str) -> list[float]:
    """How long each answer took, in seconds."""
    took, begin = [], monotonic()
    while monotonic() - begin < seconds:
        asked = monotonic()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": "gzip"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
            assert answer.read()
        took.append(monotonic() - asked)
    return took


def port_of(process: ChildProcess) -> int:
    pattern = r"Serving http://[\d.]+:(\d+)"
    [port] = wait_until(lambda: re.findall(pattern, process.log), 20, "the port in the log")
    return int(port)


def fill_traders(client: redis.Redis, count: int = 10_000) -> None:
    keys = Keys(0)
    for first in range(0, count, 1_000):
        names = [f"trader-{number:05}" for number in range(first, first + 1_000)]
        client.hset(keys.attempts, mapping=dict.fromkeys(names, 7))
        client.hset(keys.latency_ms, mapping=dict.fromkeys(names, "12.500"))
        client.hset(keys.latest, mapping={name: payload(name, 1) for name in names})


@pytest.mark.parametrize("page", ["exporter", "dashboard"])
def test_900_slow_clients_hold_nothing_up(
    page: str, tmp_path: Path, redis_url: str, redis_client: redis.Redis, bound: Bound
) -> None:
    path = {"exporter": "/metrics", "dashboard": "/static/css/bootstrap.css"}[page]
    fill_traders(redis_client)
    fill(redis_client, "text")
    settings = {"REDIS_URL": redis_url, "RISK_METRICS_TRADERS": "risk", "RISK_FORGET_TRADER_AFTER": "never"}
    command = [sys.executable, "-m", "risk_worker", page, "--port", "0"]
    with ChildProcess(tmp_path / "log", settings, command) as process:
        port = port_of(process)
        ask_for(1, port, path)
        with Watched(process.pid) as watched, crowd(port, kinds(path)) as clients:
            took = ask_for(SECONDS, port, path)
        says = (
            f"{page}: {len(took)} answers, the slowest took {max(took):.2f} s; {watched.threads} threads, "
            f"{watched.files} files, {watched.growth / MIB:.0f} MiB more; {clients.turned_away} turned away"
        )
        print(says)
        if STRICT:  # beside other work, which these clients are too, an answer that comes is enough
            bound(
                "900 clients of the exporter, or of the dashboard, are slow, silent or do not read", max(took)
            )
        assert watched.threads <= THREADS_MAX, says
        assert watched.files < Limits().clients + 100, says
        assert watched.growth < GROWTH_MAX, says
        wait_until(lambda: psutil.Process(process.pid).num_fds() < 50, 20, "the clients to be forgotten")
        assert process.stop(5) == 0
        assert "Traceback" not in process.log, process.log
