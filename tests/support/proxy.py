"""A TCP proxy that spoils connections: delays, cuts, half-closes, swallows, loses one answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset


class Proxy:
    """Stands between a client and the server of a URL. A context manager; faults may be set at any time."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._budget: int | None = None
        self.delay_s = 0.0
        """Each piece of data, in both directions, waits for so long."""
        self.swallowing = False
        """Nothing gets through, and nobody is told."""
        self.refusing = False
        """New connections are closed at once."""
        self.question: bytes | None = None
        """When the client says this, it is handed on, but the connection is cut instead of the answer."""
        self.cut_at: bytes | None = None
        """When the client says this, the connection is cut before the server hears it."""
        self.cut_behind: bytes | None = None
        """When the server says this, it is handed on, and the connection is cut after it."""
        self.struck = threading.Event()
        """A fault set by question, cut_at, cut_behind or cut_after() has struck, and is over."""

    @property
    def url(self) -> str:
        """The server's URL by way of this proxy."""
        host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}{host}"))

    def lead_to(self, url: str) -> None:
        """New connections go to the server of this URL; those that are there stay where they are."""
        self._target = urlsplit(url)

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.cut()

    def cut_after(self, size: int) -> None:
        """Cut the connection over which the next `size` bytes have gone, whatever their direction."""
        self.struck.clear()
        self._budget = size

    def half_close(self, *, client: bool) -> None:
        """Tell the client, or else the server, that nothing more will come; the other direction stays."""
        with self._lock:
            links = list(self._links)
        for link in links:
            with contextlib.suppress(OSError):
                (link.client if client else link.server).shutdown(socket.SHUT_WR)

    def heal(self) -> None:
        """No more faults; connections that something was swallowed from are cut."""
        self.delay_s, self.refusing, self._budget = 0.0, False, None
        self.question = self.cut_at = self.cut_behind = None
        if self.swallowing:
            self.swallowing = False
            self.cut()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._threads[0].join(10)
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection((self._target.hostname, self._target.port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                self._links.append(link)
            self._start(self._pump, link, client, server)
            self._start(self._pump, link, server, client)

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket) -> None:
        asking = source is link.client
        before = b""
        try:
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self.swallowing:
                    continue
                if asking:
                    if self._says(self.cut_at, before, data):
                        self.cut_at = None
                        return self._strike(link)
                    if self._says(self.question, before, data):
                        self.question = None
                        link.doomed = True
                    before = data
                elif link.doomed:
                    return self._strike(link)
                elif self.cut_behind is not None and self.cut_behind in data:
                    self.cut_behind = None
                    target.sendall(data)
                    return self._strike(link)
                if self._budget is not None:
                    self._budget -= len(data)
                    if self._budget <= 0:
                        data, self._budget = data[: len(data) + self._budget], None
                        target.sendall(data)
                        return self._strike(link)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut
        finally:
            link.leave()
        return None

    @staticmethod
    def _says(words: bytes | None, before: bytes, data: bytes) -> bool:
        """Whether the words end in data; they may begin in the piece before."""
        return words is not None and words in before[max(0, len(before) - len(words) + 1) :] + data

    def _strike(self, link: _Link) -> None:
        link.cut()
        self.struck.set()


class _Link:
    """Two sockets and the two threads between them; the last thread to leave closes both."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.doomed = False
        self._lock = threading.Lock()
        self._inside = 2
        self._cut = False

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if not self._cut:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                end.shutdown(socket.SHUT_RDWR)  # wakes the threads
        self._cut = True

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            last = not self._inside
        if last:
            self.client.close()
            self.server.close()
