"""What happens to a process: its end, a fork, SIGTERM. Passes it on to every producer of the process."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import current_process, parent_process, util
from time import monotonic
from types import FrameType
from typing import Any, Final, Protocol
from weakref import WeakSet

from risk_producer.errors import ConfigurationError
from risk_producer.flusher import Flusher
from risk_producer.session.section import log

CLOSE_TIMEOUT_S: Final = 5.0
"""How long close(), and the end of the process, wait for the buffer to empty."""


class Forked(Protocol):
    """A producer, as a fork sees it."""

    def _before_child(self) -> None:
        """In the child: forget what is the parent's."""

    def _begin_child(self) -> None:
        """In the child: a buffer, a connection and a flusher of its own."""

    def _determine_role(self) -> None:
        """Multiprocessing knows what the process is."""


_producers: WeakSet[Forked] = WeakSet()
_open: dict[int, Flusher] = {}
"""Those that have not ended, also of producers that were dropped."""
_logged_missing_close = threading.Event()
"""Set once the log has the line about a producer that was not closed."""


def register(producer: Forked, flusher: Flusher) -> None:
    """Pass forks on to the producer, and end its flusher with the process."""
    _producers.add(producer)
    _open[id(flusher)] = flusher


def forget(flusher_id: int) -> None:
    """The flusher has ended."""
    _open.pop(flusher_id, None)


def dropped(flusher: Flusher) -> None:
    """A producer was collected, and not closed: send what it holds, and release everything.

    May run in any thread at any moment, so it waits for nothing.
    """
    if flusher.session.ended:
        return
    if not _logged_missing_close.is_set():
        _logged_missing_close.set()
        flusher.session.section.after(_log_missing_close)
    flusher.request_close(CLOSE_TIMEOUT_S)
    if not flusher.runs() and flusher.session.empty:
        flusher.session.section.after(flusher.end)


def _log_missing_close() -> None:
    log.warning(
        "A producer was dropped without close(): what it held is sent now, for at most %g s. Close each "
        "producer, or use it in a with statement; this line is logged once",
        CLOSE_TIMEOUT_S,
    )


def is_short_lived() -> bool:
    """Whether the parent may end this process at any time, by a signal: a worker of multiprocessing.Pool."""
    return bool(current_process().daemon)


def close_on_sigterm(*producers: Any, timeout: float = CLOSE_TIMEOUT_S) -> None:
    """Close these producers when the process gets SIGTERM; then do what it would have done without.

    For the owner of the process, from its main thread. Elsewhere it raises ConfigurationError.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("close_on_sigterm() has to be called in the main thread")
    previous = signal.getsignal(signal.SIGTERM)

    def go_on(number: int, frame: FrameType | None) -> None:
        if callable(previous):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def close(number: int, frame: FrameType | None) -> None:
        flushers: list[Flusher] = [producer._engine.flusher for producer in producers]
        deadline = monotonic() + timeout
        for flusher in flushers:
            flusher.request_close(timeout)
        _close_outside(flushers, deadline, lambda: go_on(number, frame))

    signal.signal(signal.SIGTERM, close)


def _close_outside(flushers: list[Flusher], deadline: float, then: Callable[[], None]) -> None:
    """Close them, and go on. Where the signal came in the midst of a call of one: when that is over."""
    for flusher in flushers:
        if flusher.session.section.is_held():
            flusher.session.section.after(lambda: _close_outside(flushers, deadline, then))
            return
    for flusher in flushers:
        flusher.close(max(0.0, deadline - monotonic()))
    then()


def _after_fork_in_child() -> None:
    _open.clear()
    producers = list(_producers)
    for producer in producers:
        producer._before_child()
    for producer in producers:
        producer._begin_child()


def _end_all() -> None:
    deadline = monotonic() + CLOSE_TIMEOUT_S  # for all of them together
    flushers = list(_open.values())
    for flusher in flushers:
        flusher.request_close(max(0.0, deadline - monotonic()))
    for flusher in flushers:
        flusher.close(max(0.0, deadline - monotonic()))


def _end_all_in_child(_: object = None) -> None:
    """The processes of multiprocessing that are forked end without atexit."""
    util.Finalize(None, _end_all, exitpriority=0)
    for producer in list(_producers):
        producer._determine_role()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_end_all)
util.register_after_fork(_end_all, _end_all_in_child)
if parent_process() is not None:
    _end_all_in_child()
