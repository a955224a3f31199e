"""`riskstream timescale enable`: all that TimescaleDB can do for history, turned on; it may be repeated."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from risk_producer.settings import Settings
from risk_worker.database import connection as database
from risk_worker.database.extension import look
from risk_worker.database.reader import connected
from risk_worker.timescale import policies
from risk_worker.timescale.policies import AGGREGATES, APACHE, SQL, NotPossible, prepare

COLUMNSTORE = ("trader_id", "recorded_at DESC,epoch DESC,seq DESC")
"""(segmentby, orderby), as TimescaleDB shows them."""


def enable(url: str, settings: Settings) -> Iterator[str]:
    """Make history a hypertable, turn on the columnstore, make the aggregates continuous, add the policies.

    Yields what is so now, a sentence each. Raises as policies.apply().
    """
    with connected(url, database.MIGRATE) as connection:
        [(kind,)] = connection.execute(SQL["make_hypertable"]).fetchall()
        if kind != "hypertable":
            raise NotPossible(f"risk_state_history stays a {kind}")
        yield "risk_state_history is a hypertable"
        if look(connection).apache:
            yield APACHE
            return
        with connection.transaction():
            prepare(connection)
            _turn_columnstore_on(connection)
        yield "The columnstore is on"
        with connection.transaction():
            prepare(connection)
            for name in sorted(AGGREGATES.keys() - set(policies.continuous(connection))):
                _make_continuous(connection, name)
    yield from policies.apply(url, settings)


def is_columnstore_as_wanted(connection: psycopg.Connection) -> bool:
    """Whether chunks that are compressed from now on get the form that late rows and seals need."""
    found = connection.execute(SQL["columnstore"]).fetchone()
    return found is not None and found[:2] == COLUMNSTORE and "stored_at" in found[2]


def _turn_columnstore_on(connection: psycopg.Connection) -> None:
    if not is_columnstore_as_wanted(connection):
        connection.execute(SQL["turn_columnstore_on"])


def _make_continuous(connection: psycopg.Connection, name: str) -> None:
    """Replace the view; its comment and grants stay. Raises where another view is made from it."""
    kept = [statement for (statement,) in connection.execute(SQL["kept_of_view"], {"view": name})]
    try:
        connection.execute(SQL[f"make_{name.removeprefix('risk_')}_continuous"])
    except psycopg.errors.DependentObjectsStillExist as error:
        raise NotPossible(
            f"{name} cannot become a continuous aggregate while something depends on it: "
            f"{error.diag.message_detail}. Drop that, enable, and make it again"
        ) from None
    for statement in kept:
        connection.execute(statement)
