"""The HTTP server of exporter and dashboard, in a thread; and clients that do what browsers do not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from risk_worker.web.server import Limits, Server

ANSWER_S = 60.0
"""No answer takes so long; a test that waits for longer has failed."""


@contextmanager
def serving(application: Any, host: str = "127.0.0.1", limits: Limits | None = None) -> Iterator[Server]:
    """Serve on a free port for as long as the block takes."""
    with Server(application, host=host, port=0, limits=limits) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(ANSWER_S)
            assert not thread.is_alive()


def connect(server: Server | int, data: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """A client that has sent data. receive_buffer: bytes that its kernel takes although it reads nothing."""
    port = server if isinstance(server, int) else server.server_port
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(ANSWER_S)
    client.connect(("127.0.0.1", port))
    client.sendall(data)
    return client


def read_all(client: socket.socket) -> bytes:
    """What the server sends until it hangs up."""
    parts = []
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    client.close()
    return b"".join(parts)


def ask(server: Server | int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers in lower case, body) of the answer to these bytes; status 0: none."""
    head, _, body = read_all(connect(server, data)).partition(b"\r\n\r\n")
    if not head:
        return 0, {}, b""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body


def get(
    path: str, *headers: str, method: str = "GET", host: str | None = "127.0.0.1", body: bytes = b""
) -> bytes:
    """The bytes of a request; host: None leaves the header out."""
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body
