"""RQ's own log, as far as it says what riskstream's does not.

What RQ says of each job is routine: a drain job is a time slice of some seconds. And an error that Redis may
give at any time is a sentence, not a traceback.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from rq.exceptions import InvalidJobOperation, NoSuchJobError

from risk_producer.transport.connect import REDIS_ERRORS

EXPECTED: Final = (*REDIS_ERRORS, InvalidJobOperation, NoSuchJobError)
"""What RQ raises where Redis is away, refuses a command, or has lost its data."""


REPEAT_EVERY_S: Final = 60.0
"""A line that is the same but for the worker's name and a number of seconds is for DEBUG within this time."""


class _Quiet(logging.Filter):
    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, EXPECTED):
            record.msg, record.args = f"{record.getMessage()} {type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        routine = record.levelno == logging.INFO and "shut down requested" not in str(record.msg)
        if routine or self._is_repeated(record):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return logging.getLogger().isEnabledFor(logging.DEBUG)  # RQ sets the level of its own to INFO
        return True

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        line = re.sub(r"^Worker \S+: |\d+", "", record.getMessage())
        if now - self._logged.get(line, -inf) < REPEAT_EVERY_S:
            return True
        self._logged = {each: at for each, at in self._logged.items() if now - at < REPEAT_EVERY_S}
        self._logged[line] = now
        return False


_QUIET: Final = _Quiet()


def quieten() -> None:
    """For this process; may be called again."""
    logging.getLogger("rq.worker").addFilter(_QUIET)
