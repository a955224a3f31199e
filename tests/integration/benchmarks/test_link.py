"""The benchmarks' link delays what goes through, and does not hold up what comes behind it."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from queue import Queue
from urllib.parse import urlsplit

import pytest

from benchmarks import link as module
from benchmarks.link import link
from tests.support.clock import FakeClock


@pytest.fixture
def echo_url() -> Iterator[str]:
    """A server that sends back what it gets, for one connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield f"postgresql://somebody@127.0.0.1:{listener.getsockname()[1]}/risk"
        thread.join(20)


def test_pieces_travel_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(module, "sleep", sleep)
    under_way: Queue[tuple[float, bytes]] = Queue()
    kind = socket.SOCK_SEQPACKET  # each piece stays one
    (entry, source), (target, way_out) = socket.socketpair(type=kind), socket.socketpair(type=kind)
    with entry, source, target, way_out:
        for number in range(100):
            entry.sendall(b"%d" % number)
        entry.shutdown(socket.SHUT_WR)
        module._read(source, under_way, 0.1)
        assert clock.now == 0, "reading waits for nothing"
        module._write(under_way, target)
        assert clock.now == pytest.approx(0.1)  # one after the other: 10
        assert [int(way_out.recv(10)) for _ in range(100)] == list(range(100))
        assert way_out.recv(10) == b""


def test_what_goes_in_comes_out_in_full(echo_url: str) -> None:
    with link(echo_url, 100) as url:
        parts = urlsplit(url)
        assert (parts.username, parts.path) == ("somebody", "/risk")
        assert parts.port != urlsplit(echo_url).port
        with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=20) as client:
            sent = b"".join(b"%d," % number for number in range(100))
            client.sendall(sent)
            answer = b""
            while len(answer) < len(sent):
                answer += client.recv(1000)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert answer == sent


def test_the_delay_is_what_is_asked_for_less_what_a_sleep_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Queue[tuple[socket.socket, str, int, float]] = Queue()
    monkeypatch.setattr(module, "_accept", lambda *arguments: asked.put(arguments))
    monkeypatch.setattr(module, "_oversleep_s", lambda: 0.003)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    module.main("host", 7, 0.1)
    listener, host, port, delay_s = asked.get(timeout=20)
    listener.close()
    assert (host, port) == ("host", 7)
    assert delay_s == pytest.approx(0.097)
