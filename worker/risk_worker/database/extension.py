"""What there is of TimescaleDB: on the server, in the database, of history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_worker.database import connection as database

_SQL: Final = statements(__package__, "extension.sql")


@dataclass(frozen=True, slots=True)
class Extension:
    """TimescaleDB, as a database has it."""

    version: str | None
    """None: it was not created in this database."""
    available: bool
    """Whether this server has its files."""
    loaded: bool
    """Whether its library is among shared_preload_libraries."""
    apache: bool
    """Whether only the Apache edition may be used: no columnstore, policies, continuous aggregates."""
    hypertable: bool
    """Whether history is a hypertable."""


def look(connection: psycopg.Connection) -> Extension:
    """Ask the database of a connection. Raises psycopg.Error."""
    [(version, available, loaded, licence)] = connection.execute(_SQL["look"]).fetchall()
    hypertable = version is not None and connection.execute(_SQL["is_hypertable"]).fetchone() == (True,)
    return Extension(version, available, loaded, licence == "apache", hypertable)


def server_version(url: str) -> str:
    """For a person: "Postgres 15.4, TimescaleDB 2.28.3"; "version unknown" where it cannot be asked."""
    try:
        with database.connect(url, database.COMMAND) as connection:
            version = connection.info.parameter_status("server_version") or "of unknown version"
            timescale = look(connection).version
    except (psycopg.Error, RiskError):
        return "version unknown"
    return f"Postgres {version.partition(' ')[0]}" + (f", TimescaleDB {timescale}" if timescale else "")


def see_its_functions(connection: psycopg.Connection) -> None:
    """In a transaction: let TimescaleDB's functions be found by their names alone until it ends."""
    connection.execute(_SQL["see_its_functions"])


def retention_policies(connection: psycopg.Connection) -> list[str]:
    """A sentence for each retention policy of TimescaleDB that would remove rows of history unsealed."""
    if not look(connection).hypertable:
        return []
    return [
        f"TimescaleDB's retention policy (job {job}) removes rows of history older than {age}, also those "
        "that came late and are not sealed. Remove it: SELECT remove_retention_policy('risk_state_history'); "
        "and set RISK_RETAIN_FOR instead"
        for job, age in connection.execute(_SQL["retention_policies"])
    ]
