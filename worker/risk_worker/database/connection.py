"""The one place of the worker's side that connects to Postgres.

What the URL says is kept (hosts, TLS, search_path in options, service and password files). What riskstream
needs is set after connecting, so that nothing of the user's is replaced, and so that it works behind a
connection pooler, which takes few parameters at the start of a connection.

Behind a pooler in transaction mode each transaction may run on another connection of the server. There
settings are made for each transaction (SET LOCAL): nothing is left on a connection that others use next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from socket import SHUT_RDWR, socket
from typing import Final

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.errors import Diagnostic
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import postgres_connection

CONNECT_TIMEOUT_S: Final = 5
ANSWER_S: Final = 5.0
"""Seconds that what waits for no lock may take, whatever happens to the server or the link."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a connection is for: how the server's views call it, and its settings."""

    application_name: str
    settings: Mapping[str, str]
    options: str = ""
    """What the server has to know before the first statement, as for the command line of its process."""


# Timeouts, so that a hang becomes an error, and so that a worker that freezes in a transaction does not keep
# its successor from the rows in it. Warnings are wanted: one says that a commit may not be replicated.
STORE: Final = Purpose(
    "riskstream-worker",
    {
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "client_min_messages": "warning",
    },
)
COMMAND: Final = Purpose(
    "riskstream",
    # The server ends a query whose client is gone (since Postgres 14).
    {
        "statement_timeout": "1h",
        "idle_in_transaction_session_timeout": "0",
        "client_connection_check_interval": "2s",
    },
)
# What a policy hides cannot be sealed: it is an error.
SEAL: Final = Purpose(
    "riskstream-seal",
    {
        "statement_timeout": "1h",
        "lock_timeout": "500ms",
        "idle_in_transaction_session_timeout": "60s",
        "row_security": "off",
        "work_mem": "64MB",  # a run's rows are sorted
    },
)
# A lock that is waited for keeps those who come later waiting too.
RETAIN: Final = Purpose(
    "riskstream-retain",
    {
        "statement_timeout": "1h",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "60s",
        "row_security": "off",
    },
)
MIGRATE: Final = Purpose("riskstream-migrate", {})
# How the server writes values, whatever the defaults of the database and of the role are: psycopg reads these
# forms alone, and floats are exact.
_FORMS: Final = {"datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1"}
GRANT: Final = Purpose("riskstream-grants", {}, options="-c timescaledb.disable_load=on")  # see db/grants.sql

_SQL: Final = statements(__package__, "connection.sql")


def reading(timeout_s: float) -> Purpose:
    """For questions, which change nothing; Postgres gives one up that takes longer than so many seconds."""
    return Purpose(
        "riskstream-query",
        {
            **COMMAND.settings,
            "default_transaction_read_only": "on",
            "statement_timeout": f"{max(1, round(timeout_s * 1000))}ms",
            "timezone": "UTC",
            # By the key always, which gives a trader's rows in order: a bitmap of them takes half as long
            # again, and no estimate makes the planner read all of history. What is off seems dear, so no JIT.
            "enable_bitmapscan": "off",
            "enable_seqscan": "off",
            "jit": "off",
        },
    )


class Connection(psycopg.Connection[TupleRow]):
    """A connection with the settings of its purpose, in autocommit mode."""

    pooled = False
    """Whether there is a connection pooler between: what is set for the session may be gone at the next
    transaction, and temporary tables too."""
    unreplicated = False
    """Whether a COMMIT was answered before a synchronous standby had confirmed it: an operator cancelled the
    waiting, and the transaction is committed on this server alone."""

    _each_transaction: sql.Composed | None = None

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg's, with the settings of the purpose behind a pooler too."""
        outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if outermost and self._each_transaction is not None:
                self.execute(self._each_transaction)
            yield transaction

    @contextmanager
    def answered_within(self, seconds: float) -> Iterator[None]:
        """Cut the connection where the server has not answered by then; what waits for it raises
        psycopg.OperationalError.

        A server that hangs, or a link that swallows, ends nothing by itself: neither statement_timeout nor
        TCP does.
        """
        with socket(fileno=os.dup(self.fileno())) as end:
            timer = threading.Timer(seconds, _shut, (end,))
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()

    def _prepare(self, purpose: Purpose) -> None:
        self.add_notice_handler(self._notice)
        self.adapters.register_loader("timestamptz", _Moments)
        # Whatever the default is: who waits for others has to see afterwards what they have committed.
        self.isolation_level = IsolationLevel.READ_COMMITTED
        found = self.execute(_SQL["look"]).fetchone()
        assert found is not None
        pid, lacks_library, asynchronous, checks_clients = found
        if lacks_library:
            # Postgres reports no error: compressed rows are out of sight, new rows go into the empty parent
            # table, and nothing keeps duplicates out.
            raise ConfigurationError(
                f"the database {self.info.dbname} holds TimescaleDB tables, but the server runs without its "
                "library: set shared_preload_libraries = 'timescaledb' and restart it"
            )
        settings = {**_FORMS, **purpose.settings}
        if not checks_clients:
            settings.pop("client_connection_check_interval", None)
        if asynchronous and purpose is STORE:
            settings["synchronous_commit"] = "on"  # only a commit that is on disk may be acknowledged
        self.pooled = pid != self.info.backend_pid
        if self.pooled:
            self._each_transaction = _set(settings, local=True)
        else:
            self.execute(_set(settings))

    def _notice(self, notice: Diagnostic) -> None:
        # By the function that gave it: the text is in the server's language.
        if notice.source_function == "SyncRepWaitForLSN":
            self.unreplicated = True


_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


class _Moments(Loader):
    """Reads times. One that Python's calendar does not have, like infinity, is the next that it has."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        kind = psycopg.adapters.get_loader(oid, Format.TEXT)
        assert kind is not None
        self._calendar = kind(oid, context)

    def load(self, data: Buffer) -> datetime:
        try:
            moment: datetime = self._calendar.load(data)
        except psycopg.DataError:
            text = bytes(data)
            return _FIRST if text.startswith(b"-") or text.endswith(b"BC") else _LAST
        return moment


def connect(url: str, purpose: Purpose, *, name: str = "POSTGRES_URL") -> Connection:
    """Connect to the database at a libpq URL. name: of the setting that the URL is from.

    Raises psycopg.OperationalError where the server cannot be reached or refuses, and ConfigurationError for
    a URL that cannot be used, and for a database that must not be (TimescaleDB is in it, but not loaded).
    Neither shows a password.
    """
    parameters = postgres_connection(
        url, application_name=purpose.application_name, connect_timeout_s=CONNECT_TIMEOUT_S, name=name
    )
    if purpose.options:
        parameters["options"] = (
            f"{parameters.get('options', os.environ.get('PGOPTIONS', ''))} {purpose.options}"
        )
    try:
        connection = Connection.connect(**parameters, autocommit=True, prepare_threshold=None)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"{name} has something that libpq cannot use: {error}") from None
    try:
        with connection.answered_within(ANSWER_S):
            connection._prepare(purpose)
    except BaseException:
        connection.close()
        raise
    return connection


def _shut(end: socket) -> None:
    with suppress(OSError):  # it is closed, or the server has done so
        end.shutdown(SHUT_RDWR)


def _set(settings: Mapping[str, str], *, local: bool = False) -> sql.Composed:
    kind = sql.SQL("SET LOCAL {} = {}" if local else "SET {} = {}")
    return sql.SQL("; ").join(
        kind.format(sql.SQL(key), sql.Literal(value)) for key, value in settings.items()
    )
