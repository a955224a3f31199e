"""One request, from the bytes that arrive to the parts of its answer."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from risk_worker.web.exchange import ARRIVED, BODY_BYTES_MAX, HEAD_BYTES_MAX, Refused, answered, received

HELLO = b"x" * 100_000
REQUEST = b"GET /a%20b?c=d HTTP/1.1\r\nHost: here:1\r\nX-Name: v\r\n\r\n"


class Application:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}
        self.body = b""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environ = environ
        self.body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [HELLO]


def answer(request: bytes, application: Any = None) -> tuple[bytes, list[bytes]]:
    """(head, parts)."""
    parts = answered(application or Application(), request, ("10.0.0.9", 5), ("127.0.0.1", 80), 1.5)
    head, _, _ = b"".join(parts).partition(b"\r\n\r\n")
    return head, parts


def test_the_application_sees_the_request_and_nothing_of_the_process() -> None:
    application = Application()
    head, _ = answer(REQUEST, application)
    environ = application.environ
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]) == (
        "GET",
        "/a b",
        "c=d",
    )
    assert (environ["HTTP_HOST"], environ["HTTP_X_NAME"], environ["REMOTE_ADDR"]) == (
        "here:1",
        "v",
        "10.0.0.9",
    )
    assert environ[ARRIVED] == 1.5
    assert os.environ.keys() & environ.keys() == set()
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Content-Length: 100000" in head
    assert b"\r\nServer: riskstream" in head and b"Python" not in head


def test_the_body_is_not_copied() -> None:
    _, parts = answer(REQUEST)
    assert parts[-1] is HELLO


def test_a_body_is_read_to_its_end() -> None:
    application = Application()
    answer(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", application)
    assert application.body == b"abc"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        *((b"GET", b"400"), (b"\x16\x03\x01\x02", b"400"), (b"GET / HTTP/x", b"400"), (b"GET /", b"505")),
        *((b"GET / HTTP/9.9", b"505"), (b"GET / HTTP/1.1 x", b"400"), (b"GET /\x00 HTTP/1.1", b"200")),
    ],
)
def test_what_is_no_request_is_answered(request_line: bytes, status: bytes) -> None:
    head, _ = answer(request_line + b"\r\n\r\n")
    assert head.split()[1] == status


def test_an_answer_repeats_nothing_of_what_is_no_request() -> None:
    _, parts = answer(b"GET <script>alert(1)</script> x HTTP/9\r\n\r\n")
    assert b"script" not in b"".join(parts)


def test_an_application_that_fails_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_environ: Any, _start: Any) -> list[bytes]:
        raise RuntimeError("not for everyone")

    head, parts = answer(REQUEST, fails)
    assert head.split()[1] == b"500"
    assert b"not for everyone" not in b"".join(parts)
    assert "The server could not make a page" in caplog.text


def arriving(*pieces: bytes, hang_up: bool = False) -> bytes:
    """What received() makes of the pieces, one after the other."""

    async def both() -> bytes:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            reading = asyncio.ensure_future(received(here))
            for piece in pieces:
                there.sendall(piece)
                for _ in range(3):
                    await asyncio.sleep(0)
            if hang_up:
                there.shutdown(socket.SHUT_WR)
            return await asyncio.wait_for(reading, 30)

    return asyncio.run(both())


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_a_request_may_arrive_in_any_pieces(end: bytes) -> None:
    request = b"POST / HTTP/1.0\r\ncontent-length:  3 " + end + b"abc"
    for at in range(1, len(request)):
        assert arriving(request[:at], request[at:]) == request
    assert arriving(*(bytes([byte]) for byte in request)) == request


def test_what_comes_behind_a_request_is_passed_over() -> None:
    assert arriving(REQUEST * 20) == REQUEST


@pytest.mark.parametrize("pieces", [[], [b"GET / HT"], [b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"]])
def test_a_client_that_hangs_up_has_no_request(pieces: list[bytes]) -> None:
    assert arriving(*pieces, hang_up=True) == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES_MAX, "431"),
        (b"GET /" + b"x" * HEAD_BYTES_MAX + b" HTTP/1.1\r\n\r\n", "431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", "431"),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), "413"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\nab", "400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411"),
    ],
)
def test_a_request_that_is_too_long_or_ambiguous_is_refused(request_bytes: bytes, status: str) -> None:
    with pytest.raises(Refused) as refused:
        arriving(request_bytes)
    assert b"".join(refused.value.parts).split()[1] == status.encode()
