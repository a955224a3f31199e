"""Seals history while a worker runs: a thread that looks whether a window is over."""

from __future__ import annotations

import logging
import threading
from typing import Final

from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_worker.seal.render import head_line
from risk_worker.seal.sealer import WINDOWS, Sealer

log = logging.getLogger("riskstream.seal")

LOOK_S: Final = 30.0
"""How often a worker looks whether a window is over."""


class Sealing(threading.Thread):
    """Several workers may have one: one of them seals a window."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="sealing", daemon=True)
        self._sealer = Sealer(settings.require_database_url(), WINDOWS[settings.seal_every])
        self._over = threading.Event()
        self._failed: type[Exception] | None = None

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Seal what is over. An error is logged once, and tried again at each look until it has ended."""
        try:
            for sealed in self._sealer.seal():
                log.log(
                    logging.INFO if sealed.rows else logging.DEBUG,
                    "The worker sealed %d rows in %d leaves; head to be kept: %s",
                    sealed.rows,
                    sealed.leaves,
                    head_line(sealed),
                )
                if self._over.is_set():
                    break
            if self._failed is not None:
                self._failed = None
                log.info("The worker can seal history again")
        except RiskError as error:
            self._fail(error, str(error))
        except Exception as error:  # noqa: BLE001
            self._fail(error, f"{type(error).__name__}: {error}")
        finally:
            self._sealer.close()  # a window is long, and a connection is one of few

    def stop(self) -> None:
        """The thread ends after the run that it is making."""
        self._over.set()

    def _fail(self, error: Exception, message: str) -> None:
        """Log it when it begins: the message of the next look may have other times in it."""
        if type(error) is not self._failed:
            self._failed = type(error)
            log.warning("The worker could not seal history, and tries again: %s", message)
