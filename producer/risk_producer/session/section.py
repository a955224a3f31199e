"""CriticalSection: a session's lock, and what a thread that holds it must not do at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

log = logging.getLogger("riskstream.producer")

DEFERRED_MAX: Final = 10_000


class _LockOnFirstUse:
    """A section's lock, made when it is first needed: gevent may replace what locks are until then.

    Without a lock of its own: appending is one step of Python, and the first lock counts. And without
    `__dict__`: an object whose `__dict__` was read once is slower in each of its attributes from then on. In
    CPython 3.11 that cost save() 7 % of its time here, and another 15 % while the lock was the session's own.
    """

    def __get__(self, section: CriticalSection, _: object) -> Any:
        section._made.append(threading.RLock())
        section.lock = lock = section._made[0]
        return lock


class CriticalSection:
    """A lock, held for moments, whose holder may be called again at any time.

    Foreign code (a log handler, a finalizer, a signal handler) may run in the thread that holds the lock, and
    may call the producer from there:

    - nothing foreign is called with the lock held: log lines and the start of a thread are `effects`, which
      run when the lock is free;
    - an operation requested by the thread that holds the lock is `deferred`; the outer call runs it before it
      releases the lock.

    The owner enters with `with section.lock:`, without a context manager in Python, which can be interrupted
    half-way, and calls leave() afterwards.
    """

    lock: Any = _LockOnFirstUse()
    """An RLock."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        """The lock, once it is made: the first of these."""
        self.deferred: deque[Callable[[], object]] = deque()
        self.effects: deque[Callable[[], object]] = deque()

    def is_held(self) -> bool:
        """Whether this thread holds the lock, and so cannot wait for what others do under it."""
        return bool(self.lock._is_owned())

    def run(self, operation: Callable[[], object]) -> None:
        """Run an operation with the lock held; where this thread holds it already, defer the operation."""
        if self.lock._is_owned():
            if len(self.deferred) < DEFERRED_MAX:
                self.deferred.append(operation)
            return
        with self.lock:
            operation()
            if self.deferred:
                self.run_deferred()
        self.leave()

    def run_deferred(self) -> None:
        """Run the deferred operations; called with the lock held, by the outer call."""
        while self.deferred:
            self.deferred.popleft()()

    def after(self, effect: Callable[[], object]) -> None:
        """Run an effect as soon as the lock is free: at once, or in the thread that holds the lock."""
        self.effects.append(effect)
        if not self.is_held():
            self.leave()

    def log(self, level: int, text: str, *arguments: object, exc_info: BaseException | None = None) -> None:
        """Add a log line to the effects."""
        self.effects.append(partial(log.log, level, text, *arguments, exc_info=exc_info))

    def leave(self) -> None:
        """Run what had to wait until the lock was released."""
        while self.effects or self.deferred:
            lock = self.lock
            if lock._is_owned():
                return  # the outer call will
            if self.deferred:
                with lock:
                    self.run_deferred()
                continue
            try:
                effect = self.effects.popleft()
            except IndexError:
                return
            try:
                effect()
            except Exception:  # noqa: BLE001, S112  the log's own fault: no reason to lose a snapshot
                continue
