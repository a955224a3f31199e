"""The state that Postgres stores, for load(). Needs psycopg, which the trader's part does not bring."""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

from risk_producer import tls
from risk_producer.contract.statements import statements
from risk_producer.contract.wire import VERSION, WireSnapshot
from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import postgres_connection

CONNECT_TIMEOUT_S: Final = 3


class PostgresUnavailable(Exception):
    """Postgres cannot be asked; the message says why, without a password."""


class Answer(NamedTuple):
    """What Postgres answers about a trader."""

    state: WireSnapshot | None
    """The row of risk_state; None: there is none."""
    identity: str | None
    """Of the database; None: this role cannot know it, or the migrations are of an earlier version."""


def fetch(database_url: str, trader_id: str, namespace: str = "") -> Answer:
    """The trader's state, and the identity of the database. Raises PostgresUnavailable.

    namespace: that of the producer; where the trader belongs to another one it has no state here.
    """
    try:
        import psycopg
        from psycopg.rows import dict_row
    except ImportError:
        raise PostgresUnavailable(
            "psycopg is not installed; run: pip install 'psycopg[binary]', or leave the database's URL out"
        ) from None
    sql = statements(__package__, "postgres.sql")  # here, so that importing the package reads no file for it
    try:
        parameters = postgres_connection(
            database_url, application_name="riskstream-trader", connect_timeout_s=CONNECT_TIMEOUT_S
        )
        with psycopg.connect(
            **parameters, autocommit=True, prepare_threshold=None, row_factory=dict_row
        ) as connection:
            found = row = None
            asked = {"trader_id": trader_id, "namespace": namespace}
            connection.execute(sql["begin"])
            try:
                row = connection.execute(sql["state"], asked).fetchone()
            except psycopg.errors.UntranslatableCharacter:
                # The database's encoding does not have this name, so nothing is stored under it.
                connection.rollback()
                connection.execute(sql["begin"])
            with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
                found = connection.execute(sql["identity"]).fetchone()
    except ConfigurationError as error:
        raise PostgresUnavailable(str(error)) from None
    except (psycopg.Error, UnicodeError) as error:
        says = str(error).strip()
        of_tls = tls.of_libpq(says)
        todo = "" if of_tls is None else f" ({of_tls[1]})"
        raise PostgresUnavailable(f"{type(error).__name__}: {says}{todo}") from None
    state = None if row is None else WireSnapshot(v=VERSION, **row)
    return Answer(state, None if found is None else found["identity"])
