"""Dead letters: what could not be stored, and why. Selects and counts them.

Every function takes a libpq URL, and may raise DatabaseUnavailable, or ConfigurationError for what an
operator has to correct first.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row

from risk_producer.contract.statements import statements
from risk_worker.database.reader import as_of_one_moment, connected

_FETCHED_AT_ONCE: Final = 10  # an entry may have some megabytes

_SQL: Final = statements(__package__, "select.sql")


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters: those for which everything holds that is not None."""

    stream: str | None = None
    entry_id: str | None = None
    trader_id: str | None = None
    reason: str | None = None
    """A part of the reason; upper and lower case are the same."""
    older_than: timedelta | None = None
    """Inserted longer ago than this, by the database's clock."""
    newer_than: timedelta | None = None
    until: datetime | None = None
    """Inserted up to this moment: later ones, which the operator has not seen, are left out."""

    @property
    def is_empty(self) -> bool:
        """Whether no condition is set, so that every dead letter matches."""
        return self == DeadLetterFilter()


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A row of risk_dead_letter."""

    stream: str
    entry_id: str
    failed_at: datetime
    reason: str
    sqlstate: str | None
    trader_id: str | None
    epoch: int | None
    seq: int | None
    payload: bytes

    @property
    def text(self) -> str | None:
        """The payload, where it is text."""
        try:
            return self.payload.decode()
        except UnicodeDecodeError:
            return None


def count(url: str, which: DeadLetterFilter) -> tuple[int, DeadLetterFilter]:
    """(how many there are, a filter for these and no later ones)."""
    with connected(url) as connection, as_of_one_moment(connection):
        [(number, now)] = connection.execute(_SQL["count"], asdict(which))
    return int(number), replace(which, until=which.until or now)


def rows(
    url: str, which: DeadLetterFilter, *, limit: int | None = None, by_stream: bool = False
) -> Generator[DeadLetterRow, None, None]:
    """The rows as of now, the oldest first (of each stream), a few at a time. limit: None: all."""
    parameters = {**asdict(which), "limit": limit, "by_stream": by_stream}
    with (
        connected(url) as connection,
        as_of_one_moment(connection),
        connection.cursor("dead_letters", row_factory=class_row(DeadLetterRow)) as cursor,
    ):
        cursor.itersize = _FETCHED_AT_ONCE
        yield from cursor.execute(_SQL["rows"], parameters)
