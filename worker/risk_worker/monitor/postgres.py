"""Whether Postgres answers, tried in a thread of its own: no page waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from risk_producer.errors import RiskError
from risk_worker.database import connection as database
from risk_worker.database.reader import connected

log = logging.getLogger("riskstream.exporter")

EVERY_S: Final = 10.0
BOUND_S: Final = 5.0
"""A try that takes longer is none: a server that is frozen says nothing, for as long as it is."""

_FROZEN: Final = f"a try has taken longer than {BOUND_S:g} s"


class PostgresWatch(threading.Thread):
    """Connects, and asks what each connection asks first; every EVERY_S, until stop()."""

    def __init__(self, url: str, *, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(name="postgres", daemon=True)
        self._url = url
        self._clock = clock
        self._over = threading.Event()
        self._began: float | None = None
        """Of the try that is under way."""
        self._answered: bool | None = None
        self._logged = ""

    @property
    def up(self) -> bool | None:
        """Whether it answers; None: that is not known yet."""
        began = self._began
        if began is not None and self._clock() - began > BOUND_S:
            return False
        return self._answered

    @property
    def problem(self) -> str:
        """A sentence where it does not answer; empty: it does, or that is not known yet."""
        return "" if self.up is not False else f"Postgres does not answer: {self._logged or _FROZEN}."

    def run(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(EVERY_S)

    def look(self) -> None:
        """One try."""
        self._began = self._clock()
        reason = ""
        try:
            with connected(self._url, database.reading(BOUND_S)):
                pass
        except RiskError as error:
            reason = str(error)
        self._answered = not reason
        self._began = None
        if reason and reason != self._logged:
            log.error("The exporter gets no answer from Postgres: %s", reason)
        elif self._logged and not reason:
            log.warning("The exporter gets answers from Postgres again")
        self._logged = reason

    def stop(self) -> None:
        """No other try; one that hangs ends with the process."""
        self._over.set()
