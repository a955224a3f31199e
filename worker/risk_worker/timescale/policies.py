"""What TimescaleDB does by itself, in the background: compress history, and refresh its aggregates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_worker.database import connection as database
from risk_worker.database.extension import Extension, look, see_its_functions
from risk_worker.database.reader import connected
from risk_worker.seal.expiry import last_expiry

SQL: Final = statements(__package__, "timescale.sql")
HISTORY: Final = "risk_state_history"
AGGREGATES: Final = {
    "risk_hourly": (timedelta(hours=1), timedelta(minutes=30)),
    "risk_daily": (timedelta(days=1), timedelta(hours=6)),
}
"""Name -> (length of a bucket, how often it is refreshed). The newest are summed up when asked for."""
APACHE: Final = (
    "This TimescaleDB may use its Apache edition alone (timescaledb.license = apache): history is a "
    "hypertable, nothing of it is compressed, and risk_hourly and risk_daily are ordinary views"
)


class NotPossible(RiskError):
    """TimescaleDB cannot do here what it was asked for; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Job:
    """A policy of TimescaleDB."""

    number: int
    kind: str
    of: str
    """History, or one of its aggregates."""
    offset: timedelta | None
    """The age at which it compresses, or up to which it refreshes; None: from the beginning."""
    scheduled: bool
    failed: bool
    """Whether its last run ended with an error."""


def apply(url: str, settings: Settings) -> Iterator[str]:
    """Make the policies what the settings say. Yields what is so now, a sentence each.

    Raises NotPossible, DatabaseUnavailable, ConfigurationError.
    """
    with connected(url, database.MIGRATE) as connection:
        extension = require_hypertable(connection)
        if extension.apache:
            yield APACHE
            return
        with connection.transaction():
            require_owner_with_login(connection)
            prepare(connection)
            lines = [
                _compress(connection, settings.compress_after_days),
                *_refresh(connection),
            ]
        yield from lines


def jobs(connection: psycopg.Connection) -> list[Job]:
    """The policies that there are of history and its aggregates."""
    return [Job(*row) for row in connection.execute(SQL["jobs"])]


def start_offset(expired_until: date | None) -> timedelta | None:
    """Up to which age aggregates are refreshed; None: from the beginning.

    Where rows were removed, a refresh would take them for none; the sums of their time have to stay.
    """
    return None if expired_until is None else datetime.now(UTC).date() - expired_until


def require_hypertable(connection: psycopg.Connection) -> Extension:
    """What there is of TimescaleDB. Raises NotPossible where history is a plain table."""
    connection.execute(SQL["owner"])  # where there is no table at all, Postgres says so
    extension = look(connection)
    if not extension.hypertable:
        raise NotPossible(
            "risk_state_history is a plain table; riskstream timescale enable makes it a hypertable"
        )
    return extension


def require_owner_with_login(connection: psycopg.Connection) -> None:
    """Raise NotPossible where TimescaleDB would run no policy for the owner of history."""
    [(owner, may_log_in)] = connection.execute(SQL["owner"]).fetchall()
    if not may_log_in:
        raise NotPossible(
            "TimescaleDB runs no policy of a table whose owner may not log in, and that of history is "
            f"{owner}: ALTER ROLE {owner} LOGIN (it needs no password), or ALTER TABLE risk_state_history "
            "OWNER TO a role that may; then riskstream timescale policies"
        )


def prepare(connection: psycopg.Connection) -> None:
    """In a transaction: work as the owner of history, with TimescaleDB's functions in sight."""
    connection.execute(SQL["as_owner"])
    see_its_functions(connection)


def _compress(connection: psycopg.Connection, after_days: int | None) -> str:
    if not connection.execute(SQL["columnstore"]).fetchall():
        raise NotPossible("the columnstore of history is off; riskstream timescale enable turns it on")
    found = [job for job in jobs(connection) if job.of == HISTORY]
    if after_days is None:
        connection.execute(SQL["remove_compression_policy"])
        return "Nothing more is compressed (RISK_COMPRESS_AFTER is off)"
    after = timedelta(days=after_days)
    if not found:
        connection.execute(SQL["add_compression_policy"], {"after": after})
    elif found[0].offset != after:
        connection.execute(SQL["set_compress_after"], {"job": found[0].number, "after": after})
    return f"Chunks are compressed once all of their rows are older than {after_days} days"


def _refresh(connection: psycopg.Connection) -> Iterator[str]:
    there = continuous(connection)
    _, expired_until = last_expiry(connection)
    offset = start_offset(expired_until)
    found = {job.of: job for job in jobs(connection)}
    for name, (bucket, every) in AGGREGATES.items():
        if name not in there:
            yield f"{name} is an ordinary view; riskstream timescale enable makes it a continuous aggregate"
            continue
        if name not in found:
            connection.execute(
                SQL["add_refresh_policy"],
                {"aggregate": name, "offset": offset, "bucket": bucket, "every": every},
            )
        elif found[name].offset != offset:
            connection.execute(SQL["set_start_offset"], {"job": found[name].number, "offset": offset})
        reach = "all of history" if offset is None else f"the last {offset.days} days"
        yield f"{name} is a continuous aggregate, refreshed every {_shown(every)} for {reach}"


def continuous(connection: psycopg.Connection) -> list[str]:
    """Which of the aggregates are continuous."""
    return [name for (name,) in connection.execute(SQL["aggregates"])]


def limit_refresh(connection: psycopg.Connection, expired_until: date) -> None:
    """In a prepared transaction: let no policy refresh what was recorded before a UTC day."""
    offset = start_offset(expired_until)
    for job in jobs(connection):
        if job.of != HISTORY and (job.offset is None or (offset is not None and job.offset > offset)):
            connection.execute(SQL["set_start_offset"], {"job": job.number, "offset": offset})


def _shown(length: timedelta) -> str:
    minutes = int(length.total_seconds()) // 60
    return f"{minutes // 60} hours" if minutes >= 60 else f"{minutes} minutes"
