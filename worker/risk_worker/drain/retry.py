"""How long the drain goes on trying, how long it waits in between, and what it logs of an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import backoff

from risk_worker.drain.batch import Batch, Outcome
from risk_worker.drain.errors import SourceUnavailable, StoreUnavailable
from risk_worker.drain.ports import Store

log = logging.getLogger("riskstream.drain")


class RetryPolicy:
    """How often to try again at once, and how long to wait in between. Times in seconds."""

    def __init__(self, *, retries: int = 5, base_s: float = 0.15, cap_s: float = 3.0) -> None:
        self.retries = retries
        self.base_s = base_s
        self.cap_s = cap_s
        self._logged = ""
        """Why the last try failed; empty: it did not."""

    def save(
        self,
        store: Store,
        batches: Sequence[Batch],
        *,
        gives_up: Callable[[], bool],
        on_failure: Callable[[Sequence[Batch]], None],
    ) -> list[Outcome]:
        """store.save_all(), tried again while it raises StoreUnavailable; the last one is raised.

        gives_up: whether not to try again. on_failure: called after each try that failed.
        """

        def failed(details: Any) -> None:
            self.record_failure(batches, details["exception"])
            on_failure(batches)

        retrying = backoff.on_exception(
            backoff.expo,
            StoreUnavailable,
            max_tries=self.retries + 1,
            factor=self.base_s,
            max_value=self.cap_s,
            jitter=backoff.full_jitter,
            giveup=lambda _: gives_up(),
            on_backoff=failed,
            on_giveup=failed,
            logger=None,
        )
        outcomes: list[Outcome] = retrying(store.save_all)(batches)
        self._logged = ""
        return outcomes

    def record_failure(self, batches: Sequence[Batch], error: BaseException) -> None:
        """A try to store them failed: log it where it is news."""
        reason = str(error)
        level = logging.DEBUG if reason == self._logged else logging.WARNING
        self._logged = reason
        log.log(level, "The worker could not store a batch of %d: %s", sum(map(len, batches)), reason)


class OutageLog:
    """Logs when an outage begins, why it lasts, and when it ends; the wait grows from one try to the next."""

    REPEAT_EVERY_S: Final = 60.0

    def __init__(self) -> None:
        self.why = ""
        """Why the store cannot store now: a sentence. Empty: it can, or the source is what does not work."""
        self._began: float | None = None
        self._next_wait_s = 0.0
        self._logged = ""
        self._logged_at = 0.0

    def record_failure(self, error: Exception, where: str, policy: RetryPolicy) -> float:
        """Log it where it is news. where: the snapshots wait meanwhile.

        Returns how many seconds to wait before the next try.
        """
        now = monotonic()
        if self._began is None:
            self._began = now
            self._next_wait_s = policy.base_s
        self.why = "" if isinstance(error, SourceUnavailable) else str(error)
        no_answer = isinstance(error, SourceUnavailable) and error.no_answer
        news = "Redis does not answer" if no_answer else str(error)
        if news != self._logged or now - self._logged_at > self.REPEAT_EVERY_S:
            self._logged, self._logged_at = news, now
            log.critical("The worker cannot store: %s. Snapshots wait in %s.", error, where)
        wait_s: float = backoff.full_jitter(self._next_wait_s)
        self._next_wait_s = min(self._next_wait_s * 2, policy.cap_s)
        return wait_s

    def record_success(self) -> None:
        """The source and the store work: the outage, where there was one, is over."""
        if self._began is not None:
            log.warning("The worker stores again after %.1f s.", monotonic() - self._began)
            self._began = None
            self.why = self._logged = ""
