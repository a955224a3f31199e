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
LOG_AGAIN: Final = 60
"""After so many looks an error that stays the same is logged again."""


class Sealing(threading.Thread):
    """Several workers may have one: one of them seals a window."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="sealing", daemon=True)
        self._sealer = Sealer(settings.require_database_url(), WINDOWS[settings.seal_every])
        self._over = threading.Event()
        self._failed, self._failures = "", 0

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Seal what is over. An error is logged, and tried again at the next look."""
        try:
            for sealed in self._sealer.seal():
                log.info(
                    "Sealed %d rows in %d leaves; head to be kept: %s",
                    sealed.rows,
                    sealed.leaves,
                    head_line(sealed),
                )
                if self._over.is_set():
                    break
            self._failed = ""
        except RiskError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._sealer.close()  # a window is long, and a connection is one of few

    def stop(self) -> None:
        """The thread ends after the run that it is making."""
        self._over.set()

    def _fail(self, message: str) -> None:
        self._failures = self._failures + 1 if message == self._failed else 0
        self._failed = message
        if self._failures % LOG_AGAIN == 0:
            log.warning("The worker could not seal history, and tries again: %s", message)
