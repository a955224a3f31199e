"""Known losses: lost snapshots that an operator has accepted as lost, so that verify does not count them.

What is written stays, with who and when: an entry that is to hold no more is undone by another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_worker.audit.ranges import Range, shown
from risk_worker.database.reader import connected

_SQL: Final = statements(__package__, "known_loss.sql")


class NotAccepted(RiskError):
    """Nothing was recorded; the message says why."""


@dataclass(frozen=True, slots=True)
class KnownLoss:
    """An entry that is in force: these seq numbers are accepted as lost."""

    number: int
    trader_id: str
    epoch: int
    first_seq: int
    last_seq: int
    reason: str
    recorded_by: str
    """user@host"""
    recorded_at: datetime

    @property
    def numbers(self) -> Range:
        """The seq numbers, both ends included."""
        return self.first_seq, self.last_seq

    def __str__(self) -> str:
        return (
            f"known loss {self.number}: {self.trader_id}, epoch {self.epoch}, {shown(self.numbers)}, "
            f"accepted by {self.recorded_by} at {_time(self.recorded_at)}: {self.reason}"
        )


def in_force(url: str, trader: str | None = None) -> list[KnownLoss]:
    """By trader, epoch and seq. Raises DatabaseUnavailable or ConfigurationError."""
    with connected(url) as connection:
        return [KnownLoss(*row) for row in connection.execute(_SQL["in_force"], {"trader": trader})]


def record(url: str, trader: str, epoch: int, numbers: Range, *, reason: str, by: str) -> int:
    """Write an entry; whether these are lost is the caller's business. Returns its number.

    Raises NotAccepted where an entry that is in force has some of them, and as in_force().
    """
    first, last = numbers
    entry = {"trader": trader, "epoch": epoch, "first": first, "last": last, "reason": reason, "by": by}
    with connected(url) as connection, connection.transaction():
        connection.execute(_SQL["one_at_a_time"])
        row = connection.execute(_SQL["accept"], entry).fetchone()
    if row is None:
        raise NotAccepted(f"{trader}, epoch {epoch}: some of {shown(numbers)} are accepted as lost already")
    return int(row[0])


def undo(url: str, number: int, *, reason: str, by: str) -> int:
    """Write an entry that undoes another one. Returns its number. Raises NotAccepted, and as in_force()."""
    with connected(url) as connection, connection.transaction():
        connection.execute(_SQL["one_at_a_time"])
        row = connection.execute(_SQL["undo"], {"number": number, "reason": reason, "by": by}).fetchone()
    if row is None:
        raise NotAccepted(
            f"there is no known loss {number} that is in force; riskstream verify known lists them"
        )
    return int(row[0])


def every_entry(url: str, trader: str | None = None) -> Iterator[str]:
    """A line for each entry, in their order, those too that are undone. Raises as in_force()."""
    with connected(url) as connection:
        rows = connection.execute(_SQL["all_entries"], {"trader": trader}).fetchall()
    for number, trader_id, epoch, first, last, undoes, reason, by, user, at, undone_by in rows:
        what = "accepted as lost" if undoes is None else f"undoes {undoes}"
        state = f", undone by {undone_by}" if undone_by is not None else ""
        yield (
            f"{number}  {_time(at)}  {by} as {user}  {trader_id}, epoch {epoch}, {shown((first, last))}: "
            f"{what}{state}: {reason}"
        )


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
