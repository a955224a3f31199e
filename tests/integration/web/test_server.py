"""The HTTP server of exporter, dashboard and worker, and clients that are slow, many, or gone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from risk_worker.web.server import Limits, Server
from tests.support.wait import wait_until
from tests.support.web import ask, connect, get, read_all, serving

HELLO = get("/")


def small(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_from_the_moment_it_is_ready(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def ready() -> None:
        assert signal.getsignal(number) is not before
        signal.raise_signal(number)

    with Server(small, host="127.0.0.1", port=0) as server:
        server.serve_until_signalled(ready)
    assert signal.getsignal(number) is before


def test_a_signal_stops_it_while_it_serves() -> None:
    with Server(small, host="127.0.0.1", port=0) as server:
        silent = connect(server)

        def interrupt() -> None:
            assert ask(server, HELLO)[0] == 200
            signal.raise_signal(signal.SIGTERM)

        thread = threading.Thread(target=interrupt)
        server.serve_until_signalled(thread.start)
        thread.join(30)
    assert read_all(silent) == b""


def test_a_client_that_says_nothing_or_not_enough_is_closed() -> None:
    with serving(small, limits=Limits(request_s=0.05)) as server:
        for begun in (b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", get("/", method="POST", body=b"abc")[:-1]):
            assert read_all(connect(server, begun)) == b""


def test_of_too_many_clients_the_one_that_was_waited_for_the_longest_is_closed() -> None:
    with serving(small, limits=Limits(clients=3)) as server:
        first, second, third = (connect(server, b"GET /") for _ in range(3))
        # It is the server's turn to see each of them before the next one comes.
        wait_until(lambda: len(server._clients) == 3, 30, "three clients")
        assert ask(server, HELLO)[0] == 200
        assert read_all(first) == b""
        for each in (second, third):
            each.sendall(b" HTTP/1.0\r\n\r\n")
            assert read_all(each).endswith(b"hello")


def test_no_more_threads_than_it_may_have_and_the_others_wait_in_order() -> None:
    go, running, most, order = threading.Event(), [0], [0], list[str]()
    lock = threading.Lock()

    def waits(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            order.append(environ["PATH_INFO"])
            running[0] += 1
            most[0] = max(most[0], running[0])
        assert go.wait(60)
        with lock:
            running[0] -= 1
        return small(environ, start_response)

    with serving(waits, limits=Limits(threads=2)) as server:
        clients = []
        for number in range(8):
            clients.append(connect(server, get(f"/{number}")))
            wait_until(lambda: sum(not each.is_waited_for for each in server._clients) == len(clients), 30)
        assert running == [2]
        go.set()
        assert [read_all(each)[-5:] for each in clients] == [b"hello"] * 8
    assert most == [2]
    assert sorted(order[2:]) == order[2:]


def test_where_all_wait_for_the_application_one_more_is_turned_away() -> None:
    go = threading.Event()

    def waits(environ: Any, start_response: Any) -> list[bytes]:
        assert go.wait(60)
        return small(environ, start_response)

    with serving(waits, limits=Limits(threads=1, clients=2)) as server:
        clients = [connect(server, HELLO) for _ in range(2)]
        wait_until(lambda: sum(not each.is_waited_for for each in server._clients) == 2, 30)
        assert read_all(connect(server)) == b""
        go.set()
        assert [read_all(each)[-5:] for each in clients] == [b"hello"] * 2


LARGE = 2 << 20


def large(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [bytes(LARGE)]


def test_answers_that_are_not_read_are_given_up_before_they_fill_the_memory() -> None:
    with serving(large, limits=Limits(unread_bytes=2 * LARGE)) as server:
        unread = [connect(server, HELLO, 4096) for _ in range(5)]
        for each in unread:
            assert each.recv(1)  # it is being answered
        status, _, body = ask(server, HELLO)
        assert (status, len(body)) == (200, LARGE)
        held = [len(read_all(each)) > LARGE - 2 for each in unread]
        assert held.count(True) <= 1


def test_answers_that_are_the_same_bytes_count_once() -> None:
    body = bytes(LARGE)

    def shared(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    with serving(shared, limits=Limits(unread_bytes=LARGE + 65_536)) as server:
        unread = [connect(server, HELLO, 4096) for _ in range(5)]
        for each in unread:
            assert each.recv(1)
        assert [len(read_all(each).partition(b"\r\n\r\n")[2]) for each in unread] == [LARGE] * 5


def test_an_answer_that_is_not_read_is_given_up_after_a_while() -> None:
    with serving(large, limits=Limits(answer_s=0.05)) as server:
        client = connect(server, HELLO, 4096)
        wait_until(lambda: len(server._clients) == 1, 30)
        wait_until(lambda: not server._clients, 30, "the answer to be given up")
        assert len(read_all(client)) < LARGE


def test_a_client_that_does_not_hang_up_is_closed() -> None:
    with serving(small, limits=Limits(linger_s=0.05)) as server:
        client = connect(server, HELLO)
        wait_until(lambda: not server._clients, 30, "the client to be closed")
        assert read_all(client).endswith(b"hello")


@pytest.mark.parametrize("times", [2, 1_000])
def test_of_requests_in_a_row_the_first_is_answered(times: int) -> None:
    """And its answer arrives as a whole, though the others were never read."""
    with serving(large) as server:
        head, _, body = read_all(connect(server, HELLO * times, 4096)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200") and len(body) == LARGE


def test_a_request_that_is_too_long_is_answered() -> None:
    with serving(small) as server:
        assert ask(server, get("/" + "x" * 100_000))[0] == 431
        assert ask(server, get("/", "X: " + "y" * 100_000))[0] == 431
        assert ask(server, b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))[0] == 413
        assert ask(server, HELLO)[0] == 200


def test_a_client_that_vanishes_costs_nothing() -> None:
    with serving(small) as server:
        for data in (b"", b"GET", HELLO):
            connect(server, data).close()
        assert ask(server, HELLO)[0] == 200
        wait_until(lambda: not server._clients, 30, "no client to be kept")


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "request":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_a_request_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with serving(small) as server:
        assert ask(server, HELLO)[0] == 503
    assert "can start no thread" in caplog.text
