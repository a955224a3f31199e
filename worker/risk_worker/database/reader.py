"""Postgres for the commands that a person runs: errors in one line, and queries that end with their client.

On Ctrl-C and SIGTERM a query is cancelled; after a SIGKILL Postgres notices by itself (see database.COMMAND).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError, RiskError
from risk_worker.database import connection as database
from risk_worker.database.sqlstate import Disposition, classify_error

if TYPE_CHECKING:
    from types import FrameType

_SQL: Final = statements(__package__, "reader.sql")


class DatabaseUnavailable(RiskError):
    """The database did not answer, so nothing is known; the message says why."""


@contextlib.contextmanager
def connected(url: str, purpose: database.Purpose | None = None) -> Iterator[database.Connection]:
    """A connection in autocommit mode; what goes wrong comes out in one line, without the URL's password.

    purpose: default: a command's. Raises DatabaseUnavailable, and ConfigurationError for what an operator
    has to change before it can work.
    """
    try:
        with _terminates_queries(), database.connect(url, purpose or database.COMMAND) as connection:
            yield connection
    except psycopg.Error as error:
        found = classify_error(error)
        configuration = found.disposition is Disposition.CONFIGURATION
        kind = ConfigurationError if configuration else DatabaseUnavailable
        raise kind(f"the database: {found}") from error
    except UnicodeError as error:
        raise DatabaseUnavailable(
            f"the database holds a text that is not in its encoding: {error}"
        ) from error


@contextlib.contextmanager
def as_of_one_moment(connection: database.Connection) -> Iterator[None]:
    """A transaction that changes nothing and sees the database as of one moment."""
    with connection.transaction():
        connection.execute(_SQL["as_of_one_moment"])
        yield


class Terminated(KeyboardInterrupt):
    """SIGTERM came; psycopg cancels the query that it waits for, as at Ctrl-C."""

    signal = signal.SIGTERM


@contextlib.contextmanager
def _terminates_queries() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
