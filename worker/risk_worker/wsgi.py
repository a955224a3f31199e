"""A small HTTP server for the pages of a command or a worker: a thread a request."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from socketserver import TCPServer, ThreadingMixIn
from types import FrameType
from typing import Any, Final, NamedTuple, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from risk_producer.errors import ConfigurationError

log = logging.getLogger("riskstream.web")

REDIS_TIMEOUT_S: Final = 2.0
"""A page answers within about this time, whatever Redis does."""

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
TEXT: Final = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """To a request."""

    body: str | bytes
    status: str = "200 OK"
    content_type: str = TEXT
    headers: Sequence[tuple[str, str]] = ()


def pages(paths: Mapping[str, Callable[[Environ], Answer]], hint: str) -> Application:
    """The WSGI application that answers GET and HEAD of these paths; hint: what it says of any other path."""

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        page = paths.get(environ.get("PATH_INFO", ""))
        if method not in ("GET", "HEAD"):
            answer = Answer(
                "GET and HEAD are answered\n", "405 Method Not Allowed", headers=[("Allow", "GET, HEAD")]
            )
        elif page is None:
            answer = Answer(f"{hint}\n", "404 Not Found")
        else:
            answer = page(environ)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(body))), *answer.headers]
        start_response(answer.status, headers)
        return [b"" if method == "HEAD" else body]

    return application


def health(problems: Callable[[], Sequence[str]]) -> dict[str, Callable[[Environ], Answer]]:
    """/healthz, which answers as long as the process does; and /readyz, with a sentence for each problem."""

    def ready(_: Environ) -> Answer:
        found = problems()
        if found:
            return Answer("".join(f"{each}\n" for each in found), "503 Service Unavailable")
        return Answer("ready\n")

    return {"/healthz": lambda _: Answer("ok\n"), "/readyz": ready}


class Server(ThreadingMixIn, WSGIServer):
    """Serves a WSGI application over HTTP. A request that waits holds up no other."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, application: Application, *, host: str, port: int) -> None:
        """Listen on host and port; 0 takes a free one, which server_port names. Raises ConfigurationError."""
        try:
            address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
            self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((address, port), _Handler)
        except (OSError, UnicodeError) as error:
            taken = "; --port chooses another one" if getattr(error, "errno", 0) == errno.EADDRINUSE else ""
            why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
            raise ConfigurationError(f"cannot listen on {_place(host, port)}: {why}{taken}") from None
        self.set_app(cast(Any, application))

    def server_bind(self) -> None:
        """As HTTPServer does, but without asking DNS for this machine's name, which may take seconds."""
        TCPServer.server_bind(self)
        host, port = self.socket.getsockname()[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    @property
    def url(self) -> str:
        """http://host:port, with an IPv6 address in brackets."""
        return f"http://{_place(self.server_name, self.server_port)}"

    def serve_until_signalled(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM or SIGINT, where this is the main thread, or until shutdown() is called.

        ready: called once a signal would stop it; what is logged then may be answered by a signal at once.
        """
        # shutdown() waits for the loop, which the handler has interrupted: it needs a thread of its own.
        handlers: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():

            def stop(_signum: int, _frame: FrameType | None) -> None:
                threading.Thread(target=self.shutdown, name="shutdown").start()

            handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ready()
            self.serve_forever(poll_interval=0.1)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


class _Handler(WSGIRequestHandler):
    timeout = 10  # a client that sends nothing does not keep its thread

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
