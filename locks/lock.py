"""Reads a lock file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent


def read(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """distribution -> (version, SHA-256 of each wheel that may be installed)."""
    lines = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith(("#", "--")):
            pinned, *hashes = line.split()
            distribution, version = pinned.split("==")
            found[distribution] = version, frozenset(each.removeprefix("--hash=sha256:") for each in hashes)
    return found


def normal(name: str) -> str:
    """A distribution's name, as all writings of it are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
