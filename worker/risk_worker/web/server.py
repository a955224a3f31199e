"""Serves a WSGI application over HTTP/1.0, within bounds whatever clients do.

One thread waits for all clients, and a few others run the application once a request has arrived in full. A
client that is slow, or says nothing, takes a socket and some kilobytes for a bounded time, and no thread. A
connection has one request: what a client sends behind it is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeVar

from risk_worker.web.exchange import Refused, answered, received, refusal
from risk_worker.web.listen import listen, place
from risk_worker.web.pages import Application

log = logging.getLogger("riskstream.web")

T = TypeVar("T")
_PIECE: Final = 64 << 10
"""Bytes that are sent at once; a client that takes them has moved."""
_PAUSE_S: Final = 0.05
"""Before the next try, where a connection could not be accepted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients can take of the process."""

    threads: int = 8
    """Requests that are answered at the same time; the others wait in the order of their arrival."""
    clients: int = 512
    """Connections, and never more than half of the files that the process may open. Where there is one more,
    the one that has been waited for the longest is closed."""
    request_s: float = 10.0
    """A request arrives in full within this time."""
    answer_s: float = 60.0
    """An answer is taken within this time."""
    linger_s: float = 1.0
    """A client hangs up within this time once it has its answer: what it had sent and was not read would make
    the kernel throw the answer away."""
    unread_bytes: int = 64 << 20
    """Answers in memory; bytes that several answers share count once. Where there are more, the one whose
    client has taken nothing for the longest is given up."""


@dataclass(eq=False, slots=True)
class _Client:
    socket: socket.socket
    address: tuple[Any, ...]
    moved_s: float
    """When it did something that we waited for, in seconds of monotonic()."""
    is_waited_for: bool = True
    """And not the application."""
    unread: list[bytes] = field(default_factory=list)
    """What it has not taken of its answer."""
    task: asyncio.Task[None] | None = None


class Server:
    """Listens from the moment it is made; serves between serve_forever() and shutdown()."""

    def __init__(
        self, application: Application, *, host: str, port: int, limits: Limits | None = None
    ) -> None:
        """Port 0 takes a free one, which server_port names. Raises ConfigurationError."""
        self._application = application
        self._limits = limits or Limits()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        infinite = files == resource.RLIM_INFINITY
        self._clients_max = self._limits.clients if infinite else min(self._limits.clients, files // 2)
        self._sockets = listen(host, port)
        self._host = host
        self.server_port: int = self._sockets[0].getsockname()[1]
        self._clients: set[_Client] = set()
        self._is_shut_down = False
        self._wake: Callable[[], object] = lambda: None
        self._slots = asyncio.Semaphore(self._limits.threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """http://host:port, with an IPv6 address in brackets."""
        return f"http://{place(self._host, self.server_port)}"

    def close(self) -> None:
        """Listen no more; not while it serves."""
        for each in self._sockets:
            each.close()

    def serve_forever(self) -> None:
        """Until shutdown() is called, which may have been before. Once."""
        asyncio.run(self._serve())

    def shutdown(self) -> None:
        """Make serve_forever() end. From any thread, and from a handler of signals."""
        self._is_shut_down = True
        with suppress(RuntimeError):  # it has ended
            self._wake()

    def serve_until_signalled(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM or SIGINT, where this is the main thread, or until shutdown() is called.

        ready: called once a signal would stop it; what is logged then may be answered by a signal at once.
        """
        handlers: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():

            def stop(_signum: int, _frame: FrameType | None) -> None:
                self.shutdown()

            handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ready()
            self.serve_forever()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(stop.set)
        if self._is_shut_down:
            return
        for each in self._sockets:
            loop.add_reader(each, self._accept, each)
        try:
            await stop.wait()
        finally:
            for each in self._sockets:
                loop.remove_reader(each)
            attending = [each.task for each in self._clients if each.task is not None]
            for task in attending:
                task.cancel()
            await asyncio.gather(*attending, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        """One client of those that the kernel holds; the loop calls again for the next."""
        loop = asyncio.get_running_loop()
        try:
            connection, address = listening.accept()
        except BlockingIOError:  # it is gone already
            return
        except OSError as error:  # gone as well; or the process can open no more files
            log.debug("The server could not accept a connection: %s", error)
            self._drop(self._slowest())
            loop.remove_reader(listening)
            loop.call_later(_PAUSE_S, loop.add_reader, listening, self._accept, listening)
            return
        connection.setblocking(False)
        if len(self._clients) >= self._clients_max:
            self._drop(self._slowest())
        if len(self._clients) >= self._clients_max:  # all wait for the application
            connection.close()
            return
        client = _Client(connection, address, monotonic())
        self._clients.add(client)
        client.task = loop.create_task(self._attend(client))
        client.task.add_done_callback(partial(self._forget, client))

    def _slowest(self) -> _Client | None:
        """The client that has been waited for the longest."""
        waited_for = (each for each in self._clients if each.is_waited_for)
        return min(waited_for, key=lambda each: each.moved_s, default=None)

    def _drop(self, client: _Client | None) -> None:
        if client is not None and client.task is not None:
            self._clients.discard(client)
            client.unread.clear()
            client.task.cancel()

    def _forget(self, client: _Client, task: asyncio.Task[None]) -> None:
        self._clients.discard(client)
        client.socket.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The server could not answer a request", exc_info=error)

    async def _attend(self, client: _Client) -> None:
        """Take the request, have it answered, send the answer."""
        with suppress(OSError, TimeoutError):  # the client is gone, or slower than it may be
            try:
                async with asyncio.timeout(self._limits.request_s):
                    request = await received(client.socket)
                if not request:
                    return
                client.unread = await self._answer(client, request)
            except Refused as refused:
                client.unread = refused.parts
            client.moved_s = monotonic()
            async with asyncio.timeout(self._limits.answer_s):
                await self._send(client)
            async with asyncio.timeout(self._limits.linger_s):
                await _hung_up(client.socket)

    async def _answer(self, client: _Client, request: bytes) -> list[bytes]:
        arrived_s = monotonic()
        server = client.socket.getsockname()
        client.is_waited_for = False
        try:
            async with self._slots:
                return await _in_a_thread(
                    lambda: answered(self._application, request, client.address, server, arrived_s)
                )
        except RuntimeError as error:
            log.error("The server can start no thread for a request: %s", error)
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        finally:
            client.is_waited_for = True

    async def _send(self, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        self._bound_unread(client)
        while client.unread:
            part = memoryview(client.unread[0])
            for at in range(0, len(part), _PIECE):
                await loop.sock_sendall(client.socket, part[at : at + _PIECE])
                client.moved_s = monotonic()
            del client.unread[:1]

    def _bound_unread(self, newest: _Client) -> None:
        """Give up answers until the others fit into memory."""
        while True:
            unread = {id(part): len(part) for each in self._clients for part in each.unread}
            if sum(unread.values()) <= self._limits.unread_bytes:
                return
            others = [each for each in self._clients if each.unread and each is not newest]
            if not others:
                return
            self._drop(min(others, key=lambda each: each.moved_s))


async def _hung_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    while await asyncio.get_running_loop().sock_recv(connection, _PIECE):
        pass


async def _in_a_thread(function: Callable[[], T]) -> T:
    """What a function returns or raises, in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():  # nothing waits for it any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001  # of the one who waits
            error = raised
        with suppress(RuntimeError):  # the server was shut down meanwhile
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="request", daemon=True).start()
    return await future
