"""Which database error means what: the one table that decides between waiting, blaming a row, and stopping.

Sources: the PostgreSQL manual's appendix "PostgreSQL Error Codes"; classes are the first two characters.
A code is looked up whole first, then by its class. What is in no row is waited for: that loses nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Verdict(Enum):
    """What the drain does about an error."""

    RETRY = "retry"
    """Passes by itself: try again with backoff, then leave the entries in the stream. Never blame a row."""
    DATA = "data"
    """The same row fails whenever it is tried: find it by bisection and dead-letter it."""
    CONFIGURATION = "configuration"
    """Somebody has to change something: say what, leave the entries in the stream, try again slowly."""


TABLE: Final[dict[str, tuple[Verdict, str]]] = {
    # Passing by itself.
    "08": (Verdict.RETRY, "connection trouble"),
    "40": (Verdict.RETRY, "rolled back: deadlock or serialization; the other transaction went first"),
    "53": (Verdict.RETRY, "out of a resource: disk, memory, connections"),
    "55": (Verdict.RETRY, "an object is in use or a lock was not to be had in time"),
    "57": (Verdict.RETRY, "an operator stepped in: shutdown, crash recovery, cancelled, statement timeout"),
    "58": (Verdict.RETRY, "the server's own system failed: input/output error, missing file"),
    "25006": (Verdict.RETRY, "read-only: a failover is under way, or this is a standby"),
    "25": (Verdict.RETRY, "the transaction is in a state that a new one will not be in"),
    "54": (Verdict.RETRY, "a limit of the server was met"),
    "XX": (Verdict.RETRY, "internal error of the server"),
    # The row's own fault.
    "22": (Verdict.DATA, "a value that Postgres cannot hold"),
    "23": (Verdict.DATA, "a value that breaks a constraint of the table"),
    "21": (Verdict.DATA, "the rows of one statement contradict each other"),
    # Somebody has to act.
    "28": (Verdict.CONFIGURATION, "the user or password is refused: check POSTGRES_URL and pg_hba.conf"),
    "3D": (Verdict.CONFIGURATION, "the database does not exist: create it or check POSTGRES_URL"),
    "3F": (Verdict.CONFIGURATION, "the schema does not exist: check search_path, run riskstream migrate up"),
    "42501": (Verdict.CONFIGURATION, "a privilege is missing: GRANT it to the worker's role"),
    "42": (Verdict.CONFIGURATION, "the tables are not those of this version: run riskstream migrate up"),
    "0A": (Verdict.CONFIGURATION, "the server does not support what the worker needs"),
    "P0": (Verdict.CONFIGURATION, "a trigger or function refused: look at what was added to the tables"),
}


def judge(sqlstate: str | None) -> tuple[Verdict, str]:
    """(verdict, why) for a five-character SQLSTATE; None stands for an error without one: no connection."""
    if sqlstate is None:
        return Verdict.RETRY, "the server cannot be reached"
    return TABLE.get(sqlstate) or TABLE.get(sqlstate[:2]) or (Verdict.RETRY, "not in the table")
