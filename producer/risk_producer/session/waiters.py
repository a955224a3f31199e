"""Threads and asyncio tasks that wait for the flusher's progress."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic


class Waiters:
    """wake() may be called from anywhere, also from a signal handler: it takes no lock.

    A waiter is in the list before it looks at its condition, so that no progress is missed.
    """

    def __init__(self) -> None:
        self._threads: dict[threading.Lock, None] = {}
        self._tasks: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        """There may be room, or something has arrived, or the producer was closed."""
        for signal in list(self._threads):
            release(signal)
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for future, loop in list(self._tasks.items()):
            by_loop.setdefault(loop, []).append(future)
        for loop, futures in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures)
            except RuntimeError:  # this loop is closed, and its tasks with it
                for future in futures:
                    self._tasks.pop(future, None)

    def wait_for(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until the condition holds. False: it does not, and the deadline (monotonic) is over."""
        if condition():
            return True
        signal = threading.Lock()
        signal.acquire()
        self._threads[signal] = None
        try:
            while not condition():
                remaining = -1.0 if deadline is None else deadline - monotonic()
                if deadline is not None and remaining <= 0:
                    return False
                signal.acquire(timeout=remaining)
            return True
        finally:
            self._threads.pop(signal, None)

    async def wait_for_async(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """As wait_for(). RuntimeError where no asyncio loop runs."""
        if condition():
            return True
        loop = asyncio.get_running_loop()
        while True:
            future = loop.create_future()
            self._tasks[future] = loop
            try:
                if condition():
                    return True
                remaining = None if deadline is None else deadline - monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                await asyncio.wait([future], timeout=remaining)
            finally:
                self._tasks.pop(future, None)


def release(signal: threading.Lock) -> None:
    """Wake the thread that waits for this lock; does nothing where that is awake already."""
    with contextlib.suppress(RuntimeError):
        signal.release()


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
