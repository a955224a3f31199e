"""One request and its answer: bytes that arrive, read by the standard library, for a WSGI application."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from http import HTTPStatus
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from risk_worker.web.pages import TEXT, Application

log = logging.getLogger("riskstream.web")

HEAD_BYTES_MAX: Final = 16 << 10
BODY_BYTES_MAX: Final = 64 << 10
"""More than any page of ours takes; a request lies in memory until it is answered."""

ARRIVED: Final = "riskstream.arrived"
"""Of a request's environment: when it had arrived in full, in seconds of time.monotonic()."""

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(rb"^content-length[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_ENCODED: Final = re.compile(rb"^transfer-encoding[ \t]*:", re.IGNORECASE | re.MULTILINE)


class Refused(Exception):
    """A request that is answered without the application."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.parts = refusal(status)


def refusal(status: HTTPStatus) -> list[bytes]:
    """The answer that names the status, and nothing else."""
    body = f"{status.phrase}\n".encode()
    head = (
        f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: {TEXT}\r\nContent-Length: {len(body)}\r\n"
    )
    return [head.encode() + b"Connection: close\r\n\r\n", body]


async def received(client: socket.socket) -> bytes:
    """The client's request, of the first line to the last byte of its body; what is behind it is passed over.

    Empty where the client hangs up before. Raises Refused where it is too long.
    """
    loop = asyncio.get_running_loop()
    request = bytearray()
    end: re.Match[bytes] | None = None
    while end is None:
        if len(request) > HEAD_BYTES_MAX:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        arrived = await loop.sock_recv(client, HEAD_BYTES_MAX)
        if not arrived:
            return b""
        begin = max(0, len(request) - 3)
        request += arrived
        end = _END_OF_HEAD.search(request, begin)
    size = end.end() + _length_of_body(bytes(request[: end.end()]))
    while len(request) < size:
        arrived = await loop.sock_recv(client, size - len(request))
        if not arrived:
            return b""
        request += arrived
    return bytes(request[:size])


def _length_of_body(head: bytes) -> int:
    if len(head) > HEAD_BYTES_MAX:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if _ENCODED.search(head):
        raise Refused(HTTPStatus.LENGTH_REQUIRED)
    lengths = set(_LENGTH.findall(head))
    if not lengths:
        return 0
    length = lengths.pop()
    if lengths or not re.fullmatch(rb"[0-9]{1,19}", length):
        raise Refused(HTTPStatus.BAD_REQUEST)
    if int(length) > BODY_BYTES_MAX:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(length)


def answered(
    application: Application,
    request: bytes,
    client: tuple[Any, ...],
    server: tuple[Any, ...],
    arrived_s: float,
) -> list[bytes]:
    """The application's answer in the parts that it consists of. None is copied, so that answers that share
    their bytes lie in memory once. client, server: addresses of sockets; arrived_s: as ARRIVED has it."""
    environ = {
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1]),
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SCRIPT_NAME": "",
        ARRIVED: arrived_s,
    }
    site = SimpleNamespace(base_environ=environ, get_app=lambda: application)
    return _Exchange(cast(Any, request), client, cast(Any, site)).parts


class _Parts(list[bytes]):
    """What is written, each part as it is."""

    def write(self, data: bytes) -> int:
        self.append(data)
        return len(data)

    def flush(self) -> None:
        pass


class _Exchange(WSGIRequestHandler):
    """Reads the request out of memory and keeps the answer there."""

    server_version, sys_version = "riskstream", ""

    def setup(self) -> None:
        self.parts = _Parts()
        self.rfile = BytesIO(cast(Any, self.request))
        self.wfile = cast(Any, self.parts)

    def handle(self) -> None:
        self.close_connection = True
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            return
        if self.request_version == "HTTP/0.9":  # whose answer has no head
            self.send_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return
        writes = cast(Any, self.parts)
        answering = _Answering(self.rfile, writes, sys.stderr, self.get_environ(), multithread=True)
        answering.request_handler = self
        answering.run(cast(Any, self.server).get_app())

    def finish(self) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.parts[:] = refusal(HTTPStatus(code))  # without a word of what was asked for

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Answering(ServerHandler):
    server_software = "riskstream"
    request_handler: Any
    os_environ: dict[str, str] = {}  # noqa: RUF012  # as in the base, whose own one is that of the process

    def log_exception(self, exc_info: Any) -> None:
        log.error("The server could not make a page", exc_info=exc_info)
