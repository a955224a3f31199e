"""Take over the tables of the system that riskstream replaces, which have the same names and other columns.

They move to the schema old_risk, where they stay as they are; riskstream's own are made; and the rows are
copied under epoch 1 of each trader, which is smaller than any that riskstream gives out. Every step may be
repeated: what was done is not done again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from risk_producer.contract.keys import Keyspace
from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS, redis_client
from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.database.reader import DatabaseUnavailable, connected
from risk_worker.recovery.assignment import compare_again

SHOWN: Final = 10
"""Of the rows that history cannot hold, so many are named."""

_LOCK_NOT_AVAILABLE: Final = "55P03"
_FIGURES: Final = frozenset(
    {
        *("trader_id", "daily_pnl", "drawdown_pct", "current_equity", "peak_equity"),
        *("trading_paused", "paused_until", "last_reset_time"),
    }
)
_COLUMNS: Final = {
    "risk_state": _FIGURES | {"updated_at"},
    "risk_state_history": _FIGURES | {"id", "trace_id", "reason", "recorded_at"},
}
"""What the original's tables have, and riskstream reads."""

_SQL: Final = statements(__package__, "original.sql")


class ImportImpossible(RiskError):
    """The original's tables cannot be taken over; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """A row of the original that history cannot hold."""

    table: str
    id: str
    trader_id: str | None
    reason: str

    def __str__(self) -> str:
        row = f", id {self.id}" if self.table == "risk_state_history" else ""
        return f"{self.table} of trader {self.trader_id!r}{row}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was done. Rows are those of both tables: the original's state is the last row of its trader."""

    rows: int
    """Of the original that history can hold."""
    new_rows: int
    """Of them, those that history did not have yet."""
    traders: int
    new_states: int
    """Traders whose state is now the original's; the others have a newer one, or had it already."""
    unfit: int
    """Rows that history cannot hold; they stay in old_risk alone."""
    examples: list[Unfit] = field(default_factory=list)


def take_over(
    settings: Settings, *, leave_out: bool = False, report: Callable[[str], None] = lambda _: None
) -> Imported:
    """Move, migrate, copy and compare.

    leave_out: copy the others where history cannot hold some rows; else nothing is copied then, and the
    result has no rows. report: gets a line for each step that was done.
    Raises ImportImpossible, MigrationError, DatabaseUnavailable and ConfigurationError.
    """
    url = settings.require_database_url()
    try:
        with connected(url) as connection:
            if _move(connection):
                report("The tables of the original are in the schema old_risk now")
    except DatabaseUnavailable as error:
        if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise ImportImpossible(
            "the tables of the original are in use: stop the programs that write to them, and try again"
        ) from error
    report(migrations.up(url, program=settings.dbmate))
    with connected(url) as connection, connection.transaction():
        imported = _copy(connection, leave_out=leave_out)
    if imported.new_states and settings.redis_url is not None:
        _compare_again(settings.redis_url, settings.keyspace)
    return imported


def _move(connection: database.Connection) -> bool:
    """Move the original's tables out of the way. False: that was done before."""
    here: dict[str, set[str]] = {}
    moved: dict[str, set[str]] = {}
    for is_here, table, columns in connection.execute(_SQL["tables"]):
        (here if is_here else moved)[table] = set(columns)
    if _COLUMNS.keys() <= moved.keys():
        _check("old_risk", moved)
        return False
    original = {table: columns for table, columns in here.items() if "epoch" not in columns}
    if not _COLUMNS.keys() <= original.keys():
        raise ImportImpossible(
            "there is nothing to import: neither the database's current schema nor the schema old_risk has "
            f"the tables {' and '.join(_COLUMNS)} of the original"
        )
    _check("the current schema", original)
    with connection.transaction():
        connection.execute(_SQL["move"])
        if "dirty" in here.get("schema_migrations", ()):
            connection.execute(_SQL["move_versions"])
    return True


def _check(where: str, tables: dict[str, set[str]]) -> None:
    """Raises ImportImpossible where a table lacks a column."""
    for table, wanted in _COLUMNS.items():
        if missing := wanted - tables[table]:
            raise ImportImpossible(
                f"the table {table} in {where} is not that of the original: "
                f"it has no {', '.join(sorted(missing))}"
            )


def _copy(connection: database.Connection, *, leave_out: bool) -> Imported:
    connection.execute(_SQL["begin"])
    connection.execute(_SQL["read"])
    rows, unfit, traders = connection.execute(_SQL["counts"]).fetchall()[0]
    examples = [
        Unfit("risk_state" if is_state else "risk_state_history", row_id, trader_id, reason)
        for is_state, row_id, trader_id, reason in connection.execute(_SQL["unfit"], {"shown": SHOWN})
    ]
    if unfit and not leave_out:
        return Imported(0, 0, 0, 0, unfit, examples)
    new_rows = connection.execute(_SQL["into_history"]).rowcount
    new_states = connection.execute(_SQL["into_state"]).rowcount
    [(missing, added)] = connection.execute(_SQL["differences"]).fetchall()
    if missing or added:
        raise ImportImpossible(
            f"history would differ from the original: {missing:,} rows of the original are not in it as they "
            f"are, and {added:,} of epoch 1 are not the original's. Its rows in old_risk have changed since "
            "they were imported. Nothing was imported now"
        )
    return Imported(rows, new_rows, traders, new_states, unfit, examples)


def _compare_again(redis_url: str, keyspace: Keyspace) -> None:
    """Have the workers compare Redis with Postgres again: it says of the new traders that it has no state."""
    with (
        contextlib.suppress(*REDIS_ERRORS),  # a Redis that is away is compared when it is back
        redis_client(redis_url, answer_timeout_s=10, connect_timeout_s=5) as client,
    ):
        compare_again(client, keyspace)
