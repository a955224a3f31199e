"""Whether the tables are there, and what a role may not do that a worker does (privileges.sql)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from risk_producer.contract.statements import statements
from risk_worker.database import grants

_SQL: Final = statements(__package__, "privileges.sql")
_TABLES: Final = [
    *("risk_state", "risk_state_history", "risk_dead_letter", "risk_deployment"),
    *("risk_seal_mark", "risk_seal", "risk_seal_run", "risk_epoch_total"),
]
"""What a worker needs."""


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
    lacks = grants.lacking(connection)
    missing_grants = [*lacks.storing, *lacks.sealing]
    found = connection.execute(_SQL["look"], {"tables": _TABLES}).fetchall()
    [(schema,)] = connection.execute(_SQL["schema"]).fetchall()
    if schema is None:
        name = sql.Identifier(lacks.role).as_string(connection)
        missing_grants.insert(0, f"GRANT USAGE ON SCHEMA public TO {name}")
    return Privileges(
        lacks.role,
        tuple(table for table, exists, _ in found if not exists),
        tuple(missing_grants),
        bool(missing_grants) and not any(may_write for _, _, may_write in found),
    )
