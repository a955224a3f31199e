"""The chain of seals as it is stored: runs and their leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from risk_producer.contract.statements import statements

SQL: Final = statements(__package__, "seal.sql")
VERSION: Final = 1
"""Of how the digests are made."""

LeafKey = tuple[str, int, str]
"""(trader_id, epoch, UTC day of recorded_at)"""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a run has of a trader, an epoch and a day."""

    trader_id: str
    epoch: int
    day: str
    """Like 2026-01-31."""
    rows: int
    merged: int
    covered: str
    """The seq numbers of its rows and of those that they stand for, like {[1,8),[9,10)}."""
    digest: bytes

    @property
    def key(self) -> LeafKey:
        """By which the sealed leaf is set against that of the rows."""
        return self.trader_id, self.epoch, self.day


@dataclass(frozen=True, slots=True)
class Run:
    """The rows of a span of stored_at, sealed."""

    number: int
    version: int
    kind: str
    since: datetime | None
    """None: from the very first."""
    until: datetime
    leaves: int
    rows: int
    digest: bytes
    previous: bytes | None
    """The head of the run before; None: this is the first."""
    head: bytes
    fits: bool
    """Whether the head is that of the other columns."""

    @property
    def window(self) -> str:
        """For a person."""
        since = "the beginning" if self.since is None else show_time(self.since)
        return f"run {self.number}, stored from {since} until {show_time(self.until)}"


def runs(connection: psycopg.Connection, first: int = 1) -> Iterator[Run]:
    """The runs from a number on, in order."""
    with connection.cursor("runs") as cursor:
        for row in cursor.execute(SQL["runs"], {"first": first}):
            yield Run(*row)


def sealed_leaves(connection: psycopg.Connection, number: int, trader: str | None = None) -> list[Leaf]:
    """The leaves of a run; of one trader, or of all."""
    asked = {"number": number, "trader": trader}
    return [Leaf(*row) for row in connection.execute(SQL["sealed_leaves"], asked)]


def leaves_of_rows(
    connection: psycopg.Connection, since: datetime | None, until: datetime, trader: str | None = None
) -> list[Leaf]:
    """The leaves that the rows stored in a span come to. since: None: from the very first."""
    asked = {"from": since, "until": until, "trader": trader, **encoding(connection)}
    return [Leaf(*row) for row in connection.execute(SQL["leaves"], asked)]


def encoding(connection: psycopg.Connection) -> dict[str, Any]:
    """In which text is hashed. In SQL_ASCII the bytes are whatever was stored, and taken as they are."""
    name = connection.info.parameter_status("server_encoding")
    return {"encoding": "SQL_ASCII" if name == "SQL_ASCII" else "UTF8"}


def show_time(moment: datetime) -> str:
    """In UTC, to the microsecond where it is no full second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
