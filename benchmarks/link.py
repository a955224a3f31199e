"""A network between a client and a server: what goes in comes out later, and much may be on its way.

    python -m benchmarks.link HOST PORT DELAY_MS

It is a process of its own, so that it takes no time from the interpreter that is measured.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from statistics import median
from threading import Thread
from time import perf_counter, sleep
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks.process import CHECKOUT

_PIECE = 256 * 1024
_ON_THE_WAY_MAX = 1024  # pieces


@contextmanager
def link(url: str, delay_ms: float) -> Iterator[str]:
    """The server's URL by way of a link with this delay in each direction."""
    target = urlsplit(url)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.link", str(target.hostname), str(target.port), str(delay_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        user, at, _ = target.netloc.rpartition("@")
        yield urlunsplit(target._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
    finally:
        process.communicate()  # closes its stdin, which ends it


def round_trip_ms(url: str) -> float:
    """Milliseconds from a question to the answer of this Postgres; the median of 50."""
    took = []
    with psycopg.connect(url, autocommit=True) as db:
        for _ in range(50):
            began = perf_counter()
            db.execute("SELECT 1")
            took.append((perf_counter() - began) * 1000)
    return median(took)


def main(host: str, port: int, delay_s: float) -> None:
    """Say the port, then serve until stdin ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    Thread(target=_accept, args=(listener, host, port, delay_s - _oversleep_s()), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


def _oversleep_s() -> float:
    """How much longer than asked a sleep is here; a tenth of a millisecond is usual."""
    slept = []
    for _ in range(100):
        began = perf_counter()
        sleep(0.001)
        slept.append(perf_counter() - began)
    return median(slept) - 0.001


def _accept(listener: socket.socket, host: str, port: int, delay_s: float) -> None:
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection((host, port))
        except OSError:
            client.close()
            continue
        for source, target in ((client, server), (server, client)):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            on_the_way: Queue[tuple[float, bytes]] = Queue(_ON_THE_WAY_MAX)
            Thread(target=_read, args=(source, on_the_way, delay_s), daemon=True).start()
            Thread(target=_write, args=(on_the_way, target), daemon=True).start()


def _read(source: socket.socket, on_the_way: Queue[tuple[float, bytes]], delay_s: float) -> None:
    data = b"?"
    while data:
        try:
            data = source.recv(_PIECE)
        except OSError:
            data = b""
        on_the_way.put((perf_counter() + delay_s, data))


def _write(on_the_way: Queue[tuple[float, bytes]], target: socket.socket) -> None:
    """Each piece when it is due; an empty one is the end."""
    data = b"?"
    while data:
        due, data = on_the_way.get()
        if (early := due - perf_counter()) > 0:
            sleep(early)
        with contextlib.suppress(OSError):
            if data:
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000)
