"""A TCP link that can be cut, held, slowed, and made to lose answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "hold", "lose answers", "slow"]

SLOW_S = 0.05
_POLL_S = 0.02


class Link:
    """Listens on a port of 127.0.0.1 and passes on to where to() says. Runs in a thread of its own."""

    def __init__(self, to: Callable[[], int]) -> None:
        self._to = to
        self.port = 0
        self.mode: Mode = "pass"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._ready = threading.Event()
        self._done = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._far_writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset every connection there is. New ones may be made."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def half_close(self) -> None:
        """Tell the servers that nothing more comes, while answers may still go back."""
        self._loop.call_soon_threadsafe(self._end_requests)

    def _end_requests(self) -> None:
        for writer in list(self._far_writers):
            with contextlib.suppress(OSError):
                writer.write_eof()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to())
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        self._far_writers.add(far_writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, answers=False), self._pump(far_reader, writer, answers=True)
            )
        except (OSError, RuntimeError):  # RuntimeError: written to after a half-close
            pass
        finally:
            self._writers -= both
            self._far_writers.discard(far_writer)
            for each in both:
                each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(65536):
            while self.mode == "hold":
                await asyncio.sleep(_POLL_S)
            if self.mode == "slow":
                await asyncio.sleep(SLOW_S)
            if self.mode == "lose answers" and answers:
                continue
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
