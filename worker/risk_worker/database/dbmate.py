"""The program dbmate: which one is run, and what of the environment it gets.

It gets the password of the tables' owner, and the package that brings it is not its makers' own. So its bytes
are compared with the digests that stand in dbmate.sha256, and any other program is run only where RISK_DBMATE
names it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from functools import cache
from hashlib import file_digest
from pathlib import Path
from typing import Final

from risk_producer.errors import RiskError
from risk_producer.settings import mask, without_settings
from risk_worker import installation

_DIGESTS: Final = Path(__file__).with_name("dbmate.sha256")


class DbmateUnusable(RiskError):
    """There is no dbmate, or none that may be run; the message says what to do."""


def program(given: str | None) -> Path:
    """The program to run. given: RISK_DBMATE, which is not compared with anything. Raises DbmateUnusable."""
    if given is not None:
        path = Path(given)
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
            shown = mask(given) if "://" in given else given
            raise DbmateUnusable(
                f"RISK_DBMATE names {shown}, which is no program that can be run; it expects a whole path"
            )
        return path
    found = _found()
    try:
        digest = _digest(found)
    except OSError as error:
        raise DbmateUnusable(f"{found} cannot be read: {error.strerror}") from None
    if digest not in known():
        raise DbmateUnusable(
            f"{found} is not the dbmate that this version of riskstream knows, and is not run: it would get "
            f"the password of the tables' owner. Its SHA-256 is {digest}; known is {', '.join(releases())}. "
            f"Install it anew ({installation.to_install('worker')} --force-reinstall), or let RISK_DBMATE "
            "name a program of your own"
        )
    return found


@cache
def known() -> Mapping[str, str]:
    """digest -> the release and platform of the program that has it."""
    lines = _DIGESTS.read_text().splitlines()
    return dict(line.split("  ", 1) for line in lines)


def releases() -> list[str]:
    """The releases that are known, like dbmate-2.37.0."""
    return sorted({"-".join(name.split("-")[:2]) for name in known().values()})


def environment(**more: str) -> dict[str, str]:
    """Ours for dbmate, without what its driver would take for a setting, and without what is secret in it."""
    kept = without_settings(os.environ)
    return {name: value for name, value in kept.items() if not name.startswith(("PG", "DBMATE_"))} | more


def _found() -> Path:
    """Of the same environment as this Python, else of PATH."""
    beside = Path(sys.executable).parent / "dbmate"
    if beside.is_file():
        return beside
    found = shutil.which("dbmate")
    if found is None:
        raise DbmateUnusable(f"dbmate is not installed; run: {installation.to_install('worker')}")
    return Path(found)


@cache
def _digest(path: Path) -> str:
    """Of some 30 MB, which takes a moment; once a process."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
