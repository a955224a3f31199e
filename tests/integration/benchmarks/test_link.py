"""The benchmarks' link delays what goes through, and does not hold up what comes behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from benchmarks.link import link


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


def test_pieces_travel_at_the_same_time(echo_url: str) -> None:
    with link(echo_url, 100) as url:
        parts = urlsplit(url)
        assert (parts.username, parts.path) == ("somebody", "/risk")
        assert parts.port != urlsplit(echo_url).port
        with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=20) as client:
            began = monotonic()
            for _ in range(100):
                client.sendall(b"x")
                sleep(0.005)  # so that each is a piece of its own
            answer = b""
            while len(answer) < 100:
                answer += client.recv(100)
            took = monotonic() - began
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert 0.09 < took < 9  # one after the other: 10 s each way
