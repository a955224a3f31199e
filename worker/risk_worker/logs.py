"""What the commands that stay write to stderr: one line an event, as text or as JSON."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

import msgspec

TEXT: Final = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
# What a URL has between its user and the last @, which a password may hold that was not escaped: messages of
# other libraries may quote one.
_PASSWORD: Final = re.compile(r"(://[^\s:/@]*:)\S+@")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class TextFormatter(logging.Formatter):
    """A line for a person; a traceback follows it."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return _without_passwords(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object on a line: time (UTC), level, logger, message, and trace_id and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _without_passwords(record.getMessage()),
        }
        if trace_id := getattr(record, "trace_id", ""):
            fields["trace_id"] = trace_id
        if record.exc_info:
            fields["exception"] = _without_passwords(self.formatException(record.exc_info))
        return msgspec.json.encode(fields).decode()


def to_stderr(level: str, form: Literal["text", "json"]) -> None:
    """Let the root logger write to stderr, from this level on, where it has no handler yet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class HeldBack(logging.Handler):
    """As a context manager: holds what is logged meanwhile, until write(). For the time in which the settings
    are read, which say in what form it is to be written."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def write(self) -> None:
        """Log it now."""
        for record in self._records:
            logging.getLogger(record.name).handle(record)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        logging.getLogger().removeHandler(self)


def _without_passwords(text: str) -> str:
    return _PASSWORD.sub(r"\1***@", text)
