"""Removes what is older than RISK_RETAIN_FOR while a worker runs."""

from __future__ import annotations

import logging
import threading
from typing import Final

from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_worker.seal.chain import ChainBusy
from risk_worker.timescale.retention import retain

log = logging.getLogger("riskstream.retention")

LOOK_S: Final = 600.0
"""How often a worker looks whether a day has become too old."""


class Retention(threading.Thread):
    """Several workers may have one: one of them removes a day."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="retention", daemon=True)
        self._url = settings.require_database_url()
        self._setting = settings.retain_for
        self._days = settings.retain_for_days
        self._over = threading.Event()
        self._failed: type[Exception] | None = None

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Remove what is too old. An error is logged once, and tried again at each look until it ends."""
        if self._days is None:
            return
        try:
            for removed in retain(self._url, self._days):
                log.info(
                    "The worker removed %d rows recorded before %s from history, as RISK_RETAIN_FOR=%s says; "
                    "head to be kept: %s",
                    removed.rows,
                    removed.before,
                    self._setting,
                    removed.head_line,
                )
                if self._over.is_set():
                    break
            if self._failed is not None:
                self._failed = None
                log.info("The worker can remove old history again")
        except ChainBusy:
            pass  # another worker removes or seals; at the next look
        except RiskError as error:
            self._fail(error, str(error))
        except Exception as error:  # noqa: BLE001
            self._fail(error, f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """The thread ends after the step that it is at."""
        self._over.set()

    def _fail(self, error: Exception, message: str) -> None:
        """Log it when it begins: the message of the next look may have other times in it."""
        if type(error) is not self._failed:
            self._failed = type(error)
            log.warning("The worker could not remove old history, and tries again: %s", message)
