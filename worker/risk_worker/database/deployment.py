"""The identity of a database, which a migration made (deployment.sql)."""

from __future__ import annotations

from typing import Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError

_SQL: Final = statements(__package__, "deployment.sql")


def identity_of(connection: psycopg.Connection) -> str:
    """The identity of the database. Raises psycopg.Error, and ConfigurationError where it has none."""
    return _one(connection.execute(_SQL["identity"]).fetchone())


def renew(connection: psycopg.Connection, before: str) -> str:
    """Give the database another identity. Returns it.

    Raises as identity_of(), also where the identity was not `before`.
    """
    return _one(connection.execute(_SQL["renew"], {"before": before}).fetchone())


def _one(row: tuple[str] | None) -> str:
    if row is None:
        raise ConfigurationError(
            "the table risk_deployment has no row with the identity of the database; "
            "INSERT INTO risk_deployment DEFAULT VALUES makes one"
        )
    return row[0]
