"""Whether the tables are there, and what a role may not do that a worker does (privileges.sql)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from risk_producer.contract.statements import statements

_SQL: Final = statements(__package__, "privileges.sql")


@dataclass(frozen=True, slots=True)
class Privileges:
    """What was found."""

    role: str
    missing_tables: tuple[str, ...] = ()
    """Those that no schema of the search path has, as far as this role may look."""
    missing_grants: tuple[str, ...] = ()
    """Statements that would give the role what it lacks."""
    only_reads: bool = False
    """It may write into none of the tables that are there: it is a reader's, and no worker's."""


def look(connection: psycopg.Connection) -> Privileges:
    """Ask the database of a connection. Raises psycopg.Error."""
    [(role, database, may_make_temporary, schema)] = connection.execute(_SQL["role"]).fetchall()
    to = sql.SQL(" TO {}").format(sql.Identifier(role))
    missing, grants = [], []
    only_reads = True
    for name, exists, lacks, may_write in connection.execute(_SQL["look"]):
        only_reads = only_reads and not may_write
        if not exists:
            missing.append(name)
        elif lacks:
            on = sql.SQL("GRANT {} ON {}").format(sql.SQL(", ".join(lacks)), sql.Identifier(name))
            grants.append(on + to)
    if not may_make_temporary:
        grants.append(sql.SQL("GRANT TEMPORARY ON DATABASE {}").format(sql.Identifier(database)) + to)
    if schema is None:
        grants.insert(0, sql.SQL("GRANT USAGE ON SCHEMA public") + to)
    grants_as_text = tuple(each.as_string(connection) for each in grants)
    return Privileges(role, tuple(missing), grants_as_text, only_reads and bool(grants_as_text))
