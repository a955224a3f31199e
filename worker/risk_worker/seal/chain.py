"""The chain of seals as it is stored: runs and their leaves, and the entries between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError

SQL: Final = statements(__package__, "seal.sql")
VERSION: Final = 1
"""Of how the digests are made."""

AT_ONCE: Final = 1_000
"""How many entries are read from the server at once."""
ROWS_MAX: Final = 1_000_000
"""Of a run, where they were stored at different times; and of the runs that are made, or read, at once."""
RUNS_MAX: Final = 1_000
"""How many runs are made, or read, at once: a statement over a hypertable takes long in any case."""
SEALED: Final = "sealed"
EXPIRED: Final = "expired"
REOPENED: Final = "reopened"
DROPPED: Final = "dropped"

LeafKey = tuple[str, int, str]
"""(trader_id, epoch, UTC day of recorded_at)"""


class ChainBusy(RiskError):
    """Another process adds to the chain at this moment."""


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
    expired: bool = field(default=False, compare=False)
    """Whether retention has removed its rows since it was sealed."""

    @property
    def columns(self) -> tuple[str, int, str, int, int, str, bytes]:
        """As they are stored."""
        return self.trader_id, self.epoch, self.day, self.rows, self.merged, self.covered, self.digest

    @property
    def key(self) -> LeafKey:
        """By which the sealed leaf is set against that of the rows."""
        return self.trader_id, self.epoch, self.day


@dataclass(frozen=True, slots=True)
class Run:
    """An entry of the chain: the rows of a span of stored_at, sealed; or what became of earlier runs."""

    number: int
    version: int
    kind: str
    """sealed: a run. expired: retention removed rows. reopened: runs before it are undone. dropped: an
    operator dropped dead letters."""
    since: datetime | None
    """None: from the very first."""
    until: datetime | None
    """How far history is sealed. None: not at all, after an entry that undid all runs."""
    expired_until: str | None
    """Of kind expired: the leaves before it of an earlier UTC day have no rows any more."""
    leaves: int
    """How many were sealed, have expired or are undone; of kind dropped: how many dead letters."""
    rows: int
    """What those stand for: rows of history; of kind dropped: snapshots."""
    digest: bytes
    previous: bytes | None
    """The head of the entry before; None: this is the first."""
    head: bytes
    fits: bool
    """Whether the head is that of the other columns."""
    undone_by: int | None
    """The entry that undid the run."""

    @property
    def name(self) -> str:
        """For a person."""
        if self.kind == EXPIRED:
            return f"entry {self.number}, what was recorded before {self.expired_until} has expired"
        if self.kind == REOPENED:
            return f"entry {self.number}, sealed from {_shown(self.until)} on anew"
        if self.kind == DROPPED:
            return f"entry {self.number}, dead letters were dropped"
        undone = "" if self.undone_by is None else f", undone by entry {self.undone_by}"
        return f"run {self.number}, stored from {_shown(self.since)} until {_shown(self.until)}{undone}"


def lock(connection: psycopg.Connection) -> None:
    """Until this transaction ends, no one else adds to the chain. Raises ChainBusy, which ends it."""
    try:
        connection.execute(SQL["lock_chain"])
    except psycopg.errors.LockNotAvailable as error:
        raise ChainBusy(
            "another process is sealing, reopening or removing what has expired; try it again"
        ) from error


def end_of_chain(
    connection: psycopg.Connection,
) -> tuple[int | None, datetime | None, datetime | None]:
    """(number of the last entry, how far history is sealed, how far it is closed). None: not at all."""
    [(last, sealed_until, closed_until)] = connection.execute(SQL["end_of_chain"]).fetchall()
    return last, sealed_until, closed_until


def runs(connection: psycopg.Connection, first: int = 1) -> Iterator[Run]:
    """The entries from a number on, in order."""
    with connection.cursor("runs") as cursor:
        cursor.itersize = AT_ONCE
        for row in cursor.execute(SQL["runs"], {"first": first, "wanted": None, "limit": None}):
            yield Run(*row)


def runs_of(connection: psycopg.Connection, numbers: Sequence[int]) -> dict[int, Run]:
    """The entries of some numbers, those that are there."""
    asked = {"first": numbers[0], "wanted": list(numbers), "limit": None}
    return {row[0]: Run(*row) for row in connection.execute(SQL["runs"], asked)}


def run_of(connection: psycopg.Connection, number: int) -> Run | None:
    """The entry of a number. None: there is none."""
    return runs_of(connection, [number]).get(number)


def sealed_leaves(
    connection: psycopg.Connection, first: int, last: int, trader: str | None = None
) -> dict[int, list[Leaf]]:
    """The leaves of the runs from one number to another, by number; of one trader, or of all."""
    leaves: dict[int, list[Leaf]] = defaultdict(list)
    asked = {"first": first, "last": last, "trader": trader}
    for number, *columns in connection.execute(SQL["sealed_leaves"], asked):
        leaves[number].append(Leaf(*columns))
    return leaves


def leaves_of_runs(
    connection: psycopg.Connection,
    since: datetime | None,
    ends: Sequence[datetime | None],
    trader: str | None = None,
    *,
    undone: int | None = None,
) -> list[list[Leaf]]:
    """The leaves that the rows of runs come to, of each run, which begins where the one before ends.

    since: None: from the very first. ends: one of each run, ascending. undone: the number of a run, which is
    the only one: of those rows alone that it had.
    """
    asked = {
        "from": since,
        "until": ends[-1],
        "ends": list(ends[:-1]),
        "trader": trader,
        "undone": undone,
        **encoding(connection),
    }
    leaves: list[list[Leaf]] = [[] for _ in ends]
    for place, *columns in connection.execute(SQL["leaves"], asked):
        leaves[place].append(Leaf(*columns))
    return leaves


def encoding(connection: psycopg.Connection) -> dict[str, Any]:
    """In which text is hashed. In SQL_ASCII the bytes are whatever was stored, and taken as they are."""
    name = connection.info.parameter_status("server_encoding")
    return {"encoding": "SQL_ASCII" if name == "SQL_ASCII" else "UTF8"}


def _shown(moment: datetime | None) -> str:
    return "the beginning" if moment is None else show_time(moment)


def show_time(moment: datetime) -> str:
    """In UTC, to the microsecond where it is no full second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
