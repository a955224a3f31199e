"""What `riskstream status` asks of Postgres (status.sql).

Each part by itself: what is wrong with one hides no other.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from socket import SHUT_RDWR, socket
from typing import Any, Final, LiteralString

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_producer.settings import mask
from risk_worker.database import connection as database
from risk_worker.database import extension, migrations, privileges
from risk_worker.database.deployment import identity_of
from risk_worker.database.sqlstate import Disposition, classify_error
from risk_worker.status.model import DeadLettersStatus, PostgresStatus, TradersStatus, TraderStatus
from risk_worker.status.side import Asked

SILENT_S: Final = 300.0
"""A trader without a snapshot for so long is silent, as `riskstream stale` has it."""
SHOWN: Final = 10
"""Traders of a kind that are named."""
DEAD_COUNTED: Final = 10_000
"""Dead letters are counted up to this number."""

_PURPOSE: Final = database.Purpose(
    "riskstream-status", {"statement_timeout": "1500ms", "lock_timeout": "500ms", "jit": "off"}
)
_SQL: Final = statements(__package__, "status.sql")


@dataclass(frozen=True, slots=True)
class PostgresAnswer:
    """What it answered."""

    postgres: PostgresStatus
    traders: TradersStatus = TradersStatus()  # noqa: RUF009  # it cannot be changed
    dead_letters: DeadLettersStatus | None = None
    identity: str | None = None


class Postgres(Asked[PostgresAnswer]):
    """The database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown = mask(url)
        self._connection: database.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def cut(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        with contextlib.suppress(OSError, psycopg.Error), socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(SHUT_RDWR)

    def without_answer(self, why: str) -> PostgresAnswer:
        return PostgresAnswer(PostgresStatus(self._shown, why))

    def ask(self) -> PostgresAnswer:
        kept = self._connection
        try:
            try:
                return self._answer(self._connected())
            except psycopg.OperationalError:
                if kept is None or not kept.closed:
                    raise
                return self._answer(self._connected())  # the server was restarted since the last look
        except psycopg.Error as error:
            found = classify_error(error)
            refused = found.disposition is Disposition.CONFIGURATION
            return PostgresAnswer(PostgresStatus(self._shown, str(found), refused))
        except ConfigurationError as error:
            return PostgresAnswer(PostgresStatus(self._shown, str(error), refused=True))

    def _connected(self) -> database.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = database.connect(self._url, _PURPOSE)
        return self._connection

    def _answer(self, connection: database.Connection) -> PostgresAnswer:
        [(version, standby, read_only)] = _rows(connection, "server")
        kind = extension.look(connection)
        found = privileges.look(connection)
        applied = migrations.compare(connection)
        postgres = PostgresStatus(
            self._shown,
            version=f"{version // 10_000}.{version % 10_000}",
            timescale=_timescale(kind),
            read_only=_read_only(standby=standby, by_default=read_only),
            applied=applied.number,
            pending=applied.pending,
            unknown=applied.unknown,
            missing_tables=found.missing_tables,
            missing_grants=() if found.only_reads else found.missing_grants,
            only_reads=found.only_reads,
        )
        return PostgresAnswer(
            postgres, _traders(connection), _dead_letters(connection), _identity(connection)
        )


def _rows(connection: psycopg.Connection, name: str, **values: Any) -> list[Any]:
    return connection.execute(_SQL[name], values).fetchall()


_UNKNOWN: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
)
"""What cannot be asked stays unknown: a table or a right is missing, or it takes too long."""


def _traders(connection: psycopg.Connection) -> TradersStatus:
    try:
        [(stored, paused, silent)] = _rows(connection, "traders", silent_s=SILENT_S)
        return TradersStatus(
            stored=stored,
            paused=paused,
            silent=silent,
            some_paused=_some(connection, "paused") if paused else (),
            some_silent=_some(connection, "silent", silent_s=SILENT_S) if silent else (),
        )
    except _UNKNOWN:
        return TradersStatus()


def _identity(connection: psycopg.Connection) -> str | None:
    try:
        return identity_of(connection)
    except (*_UNKNOWN, ConfigurationError):
        return None


def _some(connection: psycopg.Connection, name: LiteralString, **values: Any) -> tuple[TraderStatus, ...]:
    return tuple(TraderStatus(*row) for row in _rows(connection, name, most=SHOWN, **values))


def _dead_letters(connection: psycopg.Connection) -> DeadLettersStatus | None:
    try:
        [(count,)] = _rows(connection, "dead_letters", most=DEAD_COUNTED + 1)
        if not count:
            return DeadLettersStatus(0)
        newest = _rows(connection, "newest_dead_letter", most=DEAD_COUNTED)
        newest_s, reason = newest[0] if newest else (None, "")
        return DeadLettersStatus(min(count, DEAD_COUNTED), count > DEAD_COUNTED, newest_s, reason)
    except _UNKNOWN:
        return None


def _timescale(found: extension.Extension) -> str:
    """For a person."""
    if found.version is None:
        return "plain tables" + (", TimescaleDB is there and not used" if found.loaded else "")
    kind = "Apache" if found.apache else "Community"
    return (
        f"TimescaleDB {found.version} {kind}, history is a {'hyper' if found.hypertable else 'plain '}table"
    )


def _read_only(*, standby: bool, by_default: bool) -> str:
    if standby:
        return (
            "Postgres is a standby, which nothing can be written to. Name the primary in POSTGRES_URL, or "
            "all hosts: h1,h2"
        )
    if by_default:
        return (
            "Postgres takes no writes: default_transaction_read_only is on. Turn it off, for the server, "
            "the database or the role; what traders send waits in Redis meanwhile"
        )
    return ""
