"""Which database error means what: the one table that decides between waiting, blaming a row, and stopping.

Sources: the PostgreSQL manual's appendix "PostgreSQL Error Codes"; classes are the first two characters.
A code is looked up whole first, then by its class. What is in no row is waited for: that loses nothing.
Where in doubt between a row and the configuration, it is the configuration: nothing is lost either way, but
only one of them can empty a whole stream into the dead letters.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

import psycopg

from risk_producer import tls


class Disposition(Enum):
    """What the drain does about an error."""

    RETRY = "retry"
    """Passes by itself: try again with backoff, then leave the entries in the stream. Never blame a row."""
    DATA = "data"
    """The same row fails whenever it is tried: find it by bisection and dead-letter it."""
    CONFIGURATION = "configuration"
    """An operator has to change something: say what, leave the entries in the stream, try again slowly."""


TABLE: Final[dict[str, tuple[Disposition, str]]] = {
    # Passing by itself.
    "08": (Disposition.RETRY, "connection trouble"),
    "40": (Disposition.RETRY, "rolled back: deadlock or serialization; the other transaction went first"),
    "53": (Disposition.RETRY, "out of a resource: disk, memory, connections"),
    "55": (Disposition.RETRY, "an object is in use or a lock was not to be had in time"),
    "57": (
        Disposition.RETRY,
        "an operator stepped in: shutdown, crash recovery, cancelled, statement timeout",
    ),
    "58": (Disposition.RETRY, "the server's own system failed: input/output error, missing file"),
    "25006": (Disposition.RETRY, "read-only: a failover is under way, or this is a standby"),
    "25": (Disposition.RETRY, "the transaction is in a state that a new one will not be in"),
    "XX": (Disposition.RETRY, "internal error of the server"),
    # The row's own fault.
    "22": (Disposition.DATA, "a value that Postgres cannot hold"),
    "23": (Disposition.DATA, "a value that breaks a constraint of the table"),
    "21": (Disposition.DATA, "the rows of one statement contradict each other"),
    "54": (Disposition.DATA, "larger than Postgres can hold: an index row, a table row"),
    # An operator has to act.
    "28": (Disposition.CONFIGURATION, "the user or password is refused: check POSTGRES_URL and pg_hba.conf"),
    "3D": (Disposition.CONFIGURATION, "the database does not exist: run createdb or check POSTGRES_URL"),
    "3F": (
        Disposition.CONFIGURATION,
        "the schema does not exist: check search_path, run riskstream migrate up",
    ),
    "42501": (Disposition.CONFIGURATION, "a privilege is missing: GRANT it to the worker's role"),
    "42": (Disposition.CONFIGURATION, "the tables are not those of this version: run riskstream migrate up"),
    "0A": (Disposition.CONFIGURATION, "the server does not support what the worker needs"),
    "F0": (Disposition.CONFIGURATION, "the server's configuration file is wrong"),
    "P0": (
        Disposition.CONFIGURATION,
        "a trigger or function refused: look at what was added to the tables; one that means to refuse"
        " single rows raises with ERRCODE = 'check_violation'",
    ),
}

# libpq tells no SQLSTATE when connecting fails, only the message: what Postgres says in English, and what
# libpq says itself. A server that speaks another language is waited for, its message logged. What is wrong
# with TLS: risk_producer/tls.py.
_REFUSALS: Final = [
    (re.compile(pattern), sqlstate)
    for pattern, sqlstate in (
        ("authentication failed for user", "28P01"),
        ("no password supplied", "28P01"),
        ("pg_hba.conf", "28000"),
        ('role ".*" does not exist', "28000"),
        ('role ".*" is not permitted to log in', "28000"),
        ('database ".*" does not exist', "3D000"),
        ('permission denied for database ".*"', "42501"),
        ("unrecognized configuration parameter", "F0000"),
        ("too many clients already|remaining connection slots|too many connections for", "53300"),
        ("database system is|not currently accepting connections", "57P03"),
    )
]


def classify(sqlstate: str | None) -> tuple[Disposition, str]:
    """(disposition, why) for a five-character SQLSTATE; None stands for an error without one."""
    if sqlstate is None:
        return Disposition.RETRY, "the server cannot be reached"
    return TABLE.get(sqlstate) or TABLE.get(sqlstate[:2]) or (Disposition.RETRY, "not in the table")


class Classified(NamedTuple):
    """A database error, as the worker's side deals with it and shows it."""

    disposition: Disposition
    reason: str
    """What the table says about it."""
    message: str
    """The server's message, without the lines that repeat the row; a password never stands in it."""

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


def classify_error(error: psycopg.Error) -> Classified:
    """classify(), also for errors that carry no SQLSTATE: psycopg's own, and connections refused."""
    message = str(error).strip().partition("\n")[0] or type(error).__name__
    if error.sqlstate is not None:
        return Classified(*classify(error.sqlstate), message)
    if isinstance(error, psycopg.DataError):
        return Classified(*classify("22000"), message)
    return classify_refusal(str(error)) or Classified(*classify(None), message)


def classify_refusal(says: str) -> Classified | None:
    """What the message of a connection that was refused means; None: it names no reason that is known.

    libpq tries several addresses, and TLS before none: of its lines the one with the reason is shown.
    """
    of_tls = tls.of_libpq(says)
    if of_tls is not None:
        line, problem = of_tls
        return Classified(Disposition.CONFIGURATION, str(problem), line)
    for pattern, sqlstate in _REFUSALS:
        for line in says.splitlines():
            if pattern.search(line):
                return Classified(*classify(sqlstate), line.strip())
    return None
