"""The flusher: the thread that sends what a session holds. Threaded and asyncio producers have the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Final

from risk_producer.errors import StreamUnavailable
from risk_producer.session.session import ProducerSession
from risk_producer.session.waiters import release
from risk_producer.transport.redis import Transport
from risk_producer.transport.requests import Request

GRACE_S: Final = 0.1
"""How long close() waits for a flusher that is in the middle of a call, beyond its time."""


class Flusher:
    """Holds the session and the transport, and never the producer, which may be dropped meanwhile."""

    def __init__(self, session: ProducerSession, transport: Transport) -> None:
        self.session = session
        self.transport = transport
        self.on_end: Callable[[], None] | None = None
        """Called once, when nothing more is sent."""
        self._thread: threading.Thread | None = None
        self._work: threading.Lock | None = None
        """Locked while the flusher has nothing to do; made with the thread, as gevent replaces both."""
        self._notify_due = False
        """There is progress of which the waiters have not been notified."""
        self._over = False
        """end() has done all."""
        session.on_work = self.wake

    # From any thread

    def wake(self, start: bool) -> None:
        """Let the thread look at the buffer; start it if it is not there. Waits for nothing."""
        if self.runs():
            if self._work is not None:
                release(self._work)
        elif start:
            self.session.section.after(self.start)

    def start(self) -> None:
        """Start the thread, unless it runs. Never with the lock held."""
        work = threading.Lock()
        thread = threading.Thread(target=self._run, name="risk-producer", daemon=True)
        with self.session.section.lock:
            if self.runs():
                return
            self._thread, self._work = thread, work
        try:
            thread.start()
        except BaseException as error:  # no more threads, or the interpreter is going down
            if not thread.is_alive():
                self._thread = None
                self.session.no_thread(error)
            if not isinstance(error, Exception):
                raise

    def runs(self) -> bool:
        """Whether the thread is there, or is being started."""
        thread = self._thread
        return thread is not None and (thread.ident is None or thread.is_alive())

    def can_wait(self) -> bool:
        """Whether this thread may wait for progress: not the flusher itself, nor from within the session."""
        thread = self._thread
        own = thread is not None and thread.ident == threading.get_ident()
        return not own and not self.session.section.is_held()

    def request_close(self, timeout: float | None) -> float | None:
        """Accept nothing more, and end when all is sent or the time is over. Returns the deadline."""
        deadline = None if timeout is None else monotonic() + timeout
        self.session.request_close(deadline)
        if not self.can_wait() and not self.runs() and self.session.empty:
            self.session.section.after(self.end)
        return deadline

    def is_over(self) -> bool:
        """Whether there is nothing to wait for after request_close()."""
        return self.session.ended or not self.runs()

    def close(self, timeout: float | None) -> bool:
        """Send what is there, and end. Returns whether Redis has all that was accepted.

        Where this thread cannot wait, the flusher ends by itself.
        """
        deadline = self.request_close(timeout)
        if self.can_wait():
            wait_until = None if deadline is None else deadline + GRACE_S
            self.session.waiters.wait_for(self.is_over, wait_until)
            self.end_now(deadline)
            thread = self._thread
            if thread is not None and thread.is_alive():
                thread.join(GRACE_S)  # a daemon: it may hang in a call
        return self.session.all_confirmed()

    def end_now(self, deadline: float | None) -> None:
        """End. Where there is no thread that could send, as at the end of the interpreter, this one does."""
        if not self.session.ended and not self.runs():
            self._work = self._work or threading.Lock()
            while not self.session.is_due_to_end(monotonic()):
                if deadline is not None and monotonic() >= deadline:
                    break
                self._step_safely()
        self.end()

    def end(self) -> None:
        """Count what is left and release everything. May be called again, from any thread."""
        if self._over:
            return
        self.session.end()
        self.session.waiters.wake()
        self.transport.close()
        if self.on_end is not None:
            self.on_end()
        self._over = True

    # In the flusher's own thread

    def _run(self) -> None:
        self.session.thread_runs()
        try:
            while not self._over:
                self._step_safely()
        finally:
            self.session.thread_ended()

    def _step_safely(self) -> None:
        """Whatever raises anything: the same requests are sent again, after a while."""
        try:
            self._step()
        except BaseException as error:  # noqa: BLE001  also SystemExit, GreenletExit: a trader's data wait here
            try:
                self._pause(self.session.on_error(error, monotonic()))
            except BaseException:  # noqa: BLE001
                sleep(0.05)

    def _step(self) -> None:
        """One round of requests to Redis, and what follows from the replies."""
        session = self.session
        if self._notify_due:
            session.waiters.wake()
            self._notify_due = False
        self._wait_for_work()
        if session.ended or session.is_due_to_end(monotonic()):
            self.end()
            return
        session.check_stall(monotonic())
        # An earlier reply, of which a fault left a part to be applied, is progress too.
        self._notify_due = True
        if session.asks_partitions and not session.partitioning.version:
            wish, first = session.partitioning, session.keys(0)
            agreed = self.transport.connected().agree(wish, first)
            session.asks_partitions = False
            if agreed is not None:
                session.divide(agreed, monotonic())
        requests = session.next_requests(monotonic())
        if requests:
            self._send(requests)
        session.waiters.wake()
        self._notify_due = False
        if not requests:
            self._pause(session.wait_s(monotonic()), until_work=True)
        if session.spool is not None:
            session.sync_spool(now=False)

    def _send(self, requests: Sequence[Request]) -> None:
        session, stream = self.session, self.transport.connected()
        replies = stream.ask(requests, probe=session.is_doubtful(requests[0].keys.partition))
        failed = [
            (request.keys, reply)
            for request, reply in zip(requests, replies, strict=True)
            if isinstance(reply, StreamUnavailable)
        ]
        away_too = stream.unreachable(failed, session.keys_of_all()) if failed else {}
        session.on_replies(replies, monotonic(), away_too)

    def _wait_for_work(self) -> None:
        """Wait for something to send, and after a round a little longer for more of it."""
        lingered = False
        while True:
            wait_s = self.session.rest_s(monotonic(), lingered)
            if wait_s == 0:
                return
            self._rest(wait_s)
            lingered = True

    def _pause(self, seconds: float, *, until_work: bool = False) -> None:
        """Wait. until_work: unless another trader's snapshot comes that could be sent meanwhile."""
        ends = monotonic() + seconds
        depth = self.session.depth if until_work else None
        while (remaining := ends - monotonic()) > 0:
            if self.session.pause_ends(monotonic(), depth):
                return
            self._rest(remaining)

    def _rest(self, seconds: float | None) -> None:
        assert self._work is not None
        self._work.acquire(timeout=-1 if seconds is None else seconds)
