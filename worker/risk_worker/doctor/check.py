"""What a check is, and how checks are made: each within a bound, so that none of them stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Literal

CHECK_S: Final = 4.0
"""A check that takes longer has failed; those after it are made all the same."""
BOUND_S: Final = 15.0
"""All checks together take no longer than about this."""

CONNECTION: Final = "connection"
"""The name of the check without which those after it make no sense."""

Level = Literal["ok", "warning", "failure", "skipped"]
RANK: Final[dict[Level, int]] = {"skipped": 0, "ok": 0, "warning": 1, "failure": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the answer."""

    level: Level
    what: str
    todo: str = ""
    """What to do about it."""
    link: str = ""
    check: str = ""


def ok(what: str) -> Finding:
    """It is as it should be."""
    return Finding("ok", what)


def warning(what: str, todo: str = "") -> Finding:
    """It works, and something should be done."""
    return Finding("warning", what, todo)


def skipped(what: str) -> Finding:
    """It could not be looked at, for a reason that another finding has."""
    return Finding("skipped", what)


def failure(what: str, todo: str = "") -> Finding:
    """It does not work."""
    return Finding("failure", what, todo)


@dataclass(frozen=True, slots=True)
class Check:
    """A small function with a name. What it raises is a failure, with the text of the error."""

    name: str
    look: Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Link:
    """The checks of one server. Where that of the connection fails, those after it are not made."""

    name: str
    checks: Sequence[Check]
    close: Callable[[], None] = lambda: None
    """Gives the connections back."""


def examine(links: Sequence[Link], *, check_s: float = CHECK_S, bound_s: float = BOUND_S) -> list[Finding]:
    """Make all checks, each link in a thread of its own. The findings are in the order of the links."""
    until = monotonic() + bound_s
    made: list[tuple[Link, list[Finding], threading.Thread]] = []
    for link in links:
        found: list[Finding] = []
        thread = threading.Thread(target=_examine_link, args=(link, found, check_s, until), daemon=True)
        thread.start()
        made.append((link, found, thread))
    findings: list[Finding] = []
    for _, found, thread in made:
        thread.join(max(0.0, until + check_s - monotonic()))
        findings += list(found)
    return findings


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the whole."""
    return max((each.level for each in findings), key=RANK.__getitem__, default="ok")


def _examine_link(link: Link, found: list[Finding], check_s: float, until: float) -> None:
    for at, check in enumerate(link.checks):
        new = _made(check, min(check_s, max(0.1, until - monotonic())), link.close)
        found += [replace(each, link=link.name, check=check.name) for each in new]
        left = link.checks[at + 1 :]
        unusable = any(each.level in ("failure", "skipped") for each in new)
        if check.name == CONNECTION and unusable and left:
            names = ", ".join(each.name for each in left)
            found.append(Finding("skipped", f"not looked at: {names}", link=link.name, check="others"))
            break
    link.close()


def _made(check: Check, bound_s: float, close: Callable[[], None]) -> list[Finding]:
    """What a check found, in a thread that may hang: then it gives the connections back at its end."""
    answers: list[list[Finding]] = []
    late = threading.Event()

    def run() -> None:
        found: list[Finding] = []
        try:
            found += check.look()
        except Exception as error:  # noqa: BLE001  # one check that fails stops no other
            text = " ".join(str(error).split()) or type(error).__name__
            found.append(failure(f"it could not be looked at: {text}"))
        answers.append(found)
        if late.is_set():
            close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(bound_s)
    if answers:
        return answers[0]
    late.set()
    return [failure(f"no answer within {bound_s:.0f} s")]
