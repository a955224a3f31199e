"""A secret in a file of its own: NAME_FILE names the file that holds the value of NAME.

Containers and systemd hand secrets over in this way: they stand in no environment that a child inherits or
a crash report prints. A file is read once, when the settings are; a process that is to use another value is
started again.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from risk_producer.errors import ConfigurationError

SUFFIX: Final = "_FILE"
BYTES_MAX: Final = 65_536


def read(path: str, name: str) -> str:
    """The text of the file, without the newline at its end.

    name: of the variable or key that holds the path. Raises ConfigurationError, which shows nothing of the
    file, and the path only where there is such a file: it may be the secret itself, by mistake.
    """
    try:
        # Not waiting for the other end of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise ConfigurationError(f"{name} names {path}, which is {kind}; it expects a file")
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # a ValueError where the path cannot be one
        why = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigurationError(
            f"{name} names a file that cannot be read: {why}. It expects the path of a file that holds the "
            "secret, not the secret itself"
        ) from None
    return _text(raw, f"{name} names {path}, which")


def _text(raw: bytes, subject: str) -> str:
    if len(raw) > BYTES_MAX:
        raise ConfigurationError(f"{subject} is larger than {BYTES_MAX // 1024} KiB: it is no secret")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{subject} is not UTF-8") from None
    if "\0" in text:
        raise ConfigurationError(f"{subject} contains a zero byte")
    if text.startswith("\ufeff"):
        raise ConfigurationError(f"{subject} begins with a byte order mark: save it as plain UTF-8")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ConfigurationError(f"{subject} is empty")
    if "\n" in text or "\r" in text:
        raise ConfigurationError(f"{subject} has more than one line")
    return text
