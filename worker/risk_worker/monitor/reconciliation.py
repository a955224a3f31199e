"""Reconciles again and again, by `riskstream verify` in a process of its own.

What is sealed is counted by its totals, so it costs what was stored since the last seal. In its own process
it takes no time of the pages, and can be ended whatever hangs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Final

import msgspec

from risk_worker.monitor import catalogue
from risk_worker.monitor.page import Page

log = logging.getLogger("riskstream.exporter")

COMMAND: Final = (sys.executable, "-m", "risk_worker", "verify", "--json")
AGAIN_S: Final = 60.0
"""When it is tried again after it came to no result, where that is earlier than its turn. What took less than
this has cost little."""
LOOK_S: Final = 1.0
"""How often it is looked whether what is under way waits in vain."""
RESTS: Final = 4
"""For how many times as long as it took it rests: where nothing is sealed, it reads all of history."""


class Sums(msgspec.Struct, frozen=True):
    """What is wanted of what `verify --json` prints."""

    consistent: bool
    lost: int
    duplicates: int
    dead: int
    state_behind: int


@dataclass(frozen=True, slots=True)
class Result:
    """What the last try came to."""

    seconds: float
    sums: Sums | None
    """None: it came to no result, for the reason."""
    reason: str = ""


class Reconciliation(threading.Thread):
    """Tries at once, and then every so many seconds, until stop()."""

    def __init__(
        self, every_s: float, command: Sequence[str] = COMMAND, *, away: Callable[[], str] = lambda: ""
    ) -> None:
        """away: a sentence while a server does not answer: what is under way then waits in vain, and ends."""
        super().__init__(name="reconciliation", daemon=True)
        self._away = away
        self._every_s = every_s
        self._command = command
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._result: Result | None = None
        self._sums: Sums | None = None
        self._at = 0.0
        self._logged = ""
        self._wrong = ""

    def run(self) -> None:
        while not self._over.is_set():
            self._over.wait(self.pause_s(self.try_once()))

    def pause_s(self, result: Result) -> float:
        """How long to wait after this try."""
        turn_s = self._every_s if result.sums is not None else min(self._every_s, AGAIN_S)
        if result.sums is None and result.seconds < AGAIN_S:  # a server was away, and may be back
            return turn_s
        return max(turn_s, RESTS * result.seconds)

    def stop(self) -> None:
        """End it, and the process that is under way."""
        self._over.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def try_once(self) -> Result:
        """One reconciliation; it is given as long as there is between two."""
        began = monotonic()
        sums, reason = self._sums_or_reason()
        self._result = Result(monotonic() - began, sums, reason)
        if sums is not None:
            self._sums, self._at = sums, time()
        if self._over.is_set():
            return self._result
        if reason and reason != self._logged:
            log.error("The exporter could not reconcile, and tries again: %s", reason)
        elif self._logged and not reason:
            log.warning("The exporter can reconcile again")
        self._logged = reason
        if sums is not None:
            self._log_what_is_wrong(sums)
        return self._result

    def _log_what_is_wrong(self, sums: Sums) -> None:
        wrong = "" if sums.consistent else str(sums)
        if wrong and wrong != self._wrong:
            log.error(
                "The reconciliation found something wrong (%d snapshots lost, %d stored twice, %d states not "
                "the newest): riskstream verify names it",
                sums.lost,
                sums.duplicates,
                sums.state_behind,
            )
        elif self._wrong and not wrong:
            log.warning("The reconciliation finds nothing wrong any more")
        self._wrong = wrong

    def add_to(self, page: Page) -> None:
        """The metrics of the last try, and of the last one with a result."""
        result, sums = self._result, self._sums
        if result is None:
            return
        page.add(catalogue.VERIFY_OK, int(result.sums is not None))
        page.add(catalogue.VERIFY_SECONDS, round(result.seconds, 3))
        if sums is not None:
            page.add(catalogue.VERIFY_AT, self._at)
            page.add(catalogue.VERIFY_RECONCILED, int(sums.consistent))
            page.add(catalogue.LOST, sums.lost)
            page.add(catalogue.STORED_TWICE, sums.duplicates)
            page.add(catalogue.STATES_BEHIND, sums.state_behind)
            page.add(catalogue.DEAD_LETTERS, sums.dead)

    def _sums_or_reason(self) -> tuple[Sums | None, str]:
        pipe = subprocess.PIPE
        with self._lock:
            if self._over.is_set():
                return None, "the exporter stops"
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
            self._process = process
        try:
            out, complaint = self._output(process)
        except TimeoutError as error:
            process.kill()
            process.communicate()
            return None, f"it was ended, as {error}"
        finally:
            with self._lock:
                self._process = None
        return self._decoded(out, complaint, process.returncode)

    def _output(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """What it wrote to stdout and stderr. Raises TimeoutError with the reason not to wait any longer."""
        until = monotonic() + self._every_s
        while True:
            try:
                return process.communicate(timeout=max(0.0, min(LOOK_S, until - monotonic())))
            except subprocess.TimeoutExpired:
                if monotonic() >= until:
                    took = f"it took longer than {self._every_s:g} s (RISK_VERIFY_EVERY)"
                    raise TimeoutError(took) from None
                if away := self._away():
                    raise TimeoutError(away) from None

    @staticmethod
    def _decoded(out: bytes, complaint: bytes, status: int) -> tuple[Sums | None, str]:
        try:
            return msgspec.json.decode(out, type=Sums), ""
        except msgspec.DecodeError:
            lines = complaint.decode(errors="replace").strip().splitlines()
            return None, lines[-1][:500] if lines else f"verify ended with exit status {status}"
