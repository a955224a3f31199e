"""Postgres for the commands that a person runs: their connections, and how long their queries may take.

A query of theirs ends with its client: on Ctrl-C and SIGTERM it is cancelled, and after a SIGKILL Postgres
notices within CLIENT_CHECK_S that its client is gone (since Postgres 14).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import make_conninfo

from risk_producer.errors import ConfigurationError, RiskError
from risk_producer.settings import mask
from risk_worker.migrations import _refuse_astray as refuse_without_timescaledb
from risk_worker.sqlstate import Verdict, judge, sqlstate_of

if TYPE_CHECKING:
    from types import FrameType

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 3600
CLIENT_CHECK_S: Final = 2

_CONNECTION: Final[dict[str, str | int]] = {
    "application_name": "riskstream",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "client_encoding": "utf8",
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # ms
}
# For the transaction alone: behind a pooler the session is somebody else's next.
_LIMITS: Final = """
    SELECT set_config('statement_timeout', %s, true),
           set_config('idle_in_transaction_session_timeout', '0', true)
"""
_CLIENT_CHECK: Final = """
    SELECT set_config(name, %s, true) FROM pg_settings WHERE name = 'client_connection_check_interval'
"""


class DatabaseTrouble(RiskError):
    """The database could not be asked; the message says why."""


@contextlib.contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode; what goes wrong comes out in one line, without the URL's password.

    Raises DatabaseTrouble, ConfigurationError, and MigrationError where TimescaleDB is in the database but
    not loaded: rows are out of sight then.
    """
    try:
        conninfo = make_conninfo(url, **_CONNECTION)
    except psycopg.ProgrammingError:
        # libpq's message repeats the URL, password and all.
        raise ConfigurationError(f"POSTGRES_URL is not one that libpq can read: {mask(url)}") from None
    try:
        with _terminates_queries(), psycopg.connect(conninfo, autocommit=True) as connection:
            refuse_without_timescaledb(connection)
            yield connection
    except psycopg.Error as error:
        verdict, why = judge(error.sqlstate or sqlstate_of(str(error)))
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        kind = ConfigurationError if verdict is Verdict.CONFIGURATION else DatabaseTrouble
        raise kind(f"the database: {first_line} ({why})") from error
    except UnicodeError as error:
        raise DatabaseTrouble(f"the database holds a text that is not in its encoding: {error}") from error


@contextlib.contextmanager
def limited(connection: psycopg.Connection, *, read_only: bool = False) -> Iterator[None]:
    """A transaction whose statements end after STATEMENT_TIMEOUT_S, and soon after their client has ended.

    read_only: it sees the database as of one moment.
    """
    with connection.transaction():
        if read_only:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(_LIMITS, (f"{STATEMENT_TIMEOUT_S}s",))
        # A server on an operating system that cannot tell refuses it.
        with contextlib.suppress(psycopg.errors.InvalidParameterValue), connection.transaction():
            connection.execute(_CLIENT_CHECK, (f"{CLIENT_CHECK_S}s",))
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
