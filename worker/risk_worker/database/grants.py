"""The roles in Postgres (db/roles.sql, db/grants.sql): printed, applied, and what a worker's role lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_worker.database import connection as database
from risk_worker.database.reader import DatabaseUnavailable, connected

GROUPS: Final = ("writer", "operator", "reader", "trader")
PREFIX: Final = "risk"
# In a wheel the files are inside the package.
_PACKAGED: Final = Path(__file__).parents[1] / "_db"
_CHECKOUT: Final = Path(__file__).parents[3] / "db"
_ROLE: Final = re.compile(rf"\brisk_(?=(?:owner|{'|'.join(GROUPS)})\b)")
_PREFIX: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_LINE: Final = re.compile(r"\('risk_(\w+)', '(\w+)', ('[^()]*(?:\([^()]*\)[^()]*)*')\)")
_PRIVILEGE: Final = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")
TRIES: Final = 5
_OF_SEALING: Final = frozenset({"risk_seal_mark", "risk_seal_run", "risk_seal", "risk_epoch_total"})

_SQL: Final = statements(__package__, "grants.sql")


@dataclass(frozen=True, slots=True)
class Missing:
    """What the role of a worker lacks, as the statements that would give it."""

    role: str
    storing: tuple[str, ...]
    sealing: tuple[str, ...]
    owns_history: bool
    """Whether it may remove old rows: TimescaleDB lets the owner alone drop a chunk."""


def scripts(prefix: str = PREFIX) -> tuple[str, str]:
    """db/roles.sql and db/grants.sql, with names of roles that begin with a prefix.

    The second one is for a session of its own. Raises ConfigurationError.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"the names of roles begin with 1 to 40 of a-z, 0-9 and _, no digit first; got {prefix!r}"
        )
    folder = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    roles, grants = (
        _ROLE.sub(f"{prefix}_", (folder / name).read_text(encoding="utf-8"))
        for name in ("roles.sql", "grants.sql")
    )
    return roles, grants


def apply(url: str, prefix: str = PREFIX) -> None:
    """Run the scripts on a database. Raises DatabaseUnavailable and ConfigurationError."""
    roles, grants = scripts(prefix)
    for text, purpose in ((roles, database.MIGRATE), (grants, database.GRANT)):
        for last in (*[False] * (TRIES - 1), True):
            try:
                with connected(url, purpose) as connection, connection.transaction():
                    connection.execute(text.encode())
                break
            except DatabaseUnavailable as error:
                # To give a table away waits for those who write, and they may wait for one given away before.
                if last or not isinstance(error.__cause__, psycopg.errors.DeadlockDetected):
                    raise


def wanted(group: str) -> list[tuple[str, str, str | None]]:
    """(table, privilege, column) of each that a group has; None: of the whole table."""
    found: list[tuple[str, str, str | None]] = []
    for role, table, text in _LINE.findall(scripts()[1]):
        if role != group:
            continue
        privileges = "".join(re.findall(r"'([^']*)'", text))
        for privilege, columns in _PRIVILEGE.findall(privileges):
            found += [(table, privilege, column) for column in (columns.split(", ") if columns else [None])]
    return found


def missing(url: str) -> Missing:
    """Which privileges a worker's role lacks. Raises DatabaseUnavailable and ConfigurationError."""
    with connected(url, database.MIGRATE) as connection:
        return lacking(connection)


def lacking(connection: psycopg.Connection) -> Missing:
    """The same of a connection's role; a table that is not there is passed over. Raises psycopg.Error."""
    [(role, base, may_use_temp, owns)] = connection.execute(_SQL["role"]).fetchall()
    storing: list[str] = []
    sealing: list[str] = []
    name = sql.Identifier(role).as_string(connection)
    if not may_use_temp:
        storing.append(f"GRANT TEMPORARY ON DATABASE {sql.Identifier(base).as_string(connection)} TO {name}")
    found: dict[tuple[str, str], list[str]] = {}
    listed = wanted("writer")
    words = {
        "tables": [table for table, _, _ in listed],
        "privileges": [privilege for _, privilege, _ in listed],
        "columns": [column for _, _, column in listed],
    }
    for table, privilege, column in connection.execute(_SQL["lacking"], words):
        found.setdefault((table, privilege), []).extend([column] if column else [])
    for (table, privilege), columns in found.items():
        of = f" ({', '.join(columns)})" if columns else ""
        grant = f"GRANT {privilege}{of} ON {table} TO {name}"
        (sealing if table in _OF_SEALING else storing).append(grant)
    return Missing(role, tuple(storing), tuple(sealing), owns)
