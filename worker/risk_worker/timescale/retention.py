"""`riskstream retain`: removes the rows of history that are older than RISK_RETAIN_FOR, once they are sealed.

It goes in steps of whole UTC days of recorded_at, on a hypertable in steps of chunks. A step is one
transaction with an entry "expired" in the chain of seals, so that what is gone is known to be gone on
purpose.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import psycopg
from psycopg import sql

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_worker.database import connection as database
from risk_worker.database.extension import Extension, look, see_its_functions
from risk_worker.database.reader import connected
from risk_worker.seal.chain import SQL as CHAIN
from risk_worker.seal.chain import end_of_chain, show_time
from risk_worker.seal.expiry import Expired, expire, last_expiry
from risk_worker.seal.sealer import CLOCKS_APART_MAX, ClocksDiffer
from risk_worker.timescale import policies

SQL: Final = statements(__package__, "retention.sql")

Clock = Callable[[], datetime]


class NothingSealed(RiskError):
    """Rows are removed only once they are sealed, and none are; the message says what to do."""


class HistoryDiffers(RiskError):
    """The rows to be removed are not as many as were sealed; they stay, for `seal verify --deep` to name."""

    def __init__(self, before: date, sealed: int, there: int) -> None:
        super().__init__(
            f"of what was recorded before {before}, {sealed:,} rows were sealed and {there:,} are there, so "
            "nothing of it and of later days is removed: riskstream seal verify --deep names the difference. "
            "Bring the rows back from a backup; or, once it was looked into, riskstream retain "
            "--accept-difference removes what is there, and the chain of seals has both numbers for ever"
        )
        self.there = there


class HistoryInUse(RiskError):
    """A lock on history was not to be had in time; nothing was removed, and it can be tried again."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A step: what was recorded before a UTC day, and had been sealed."""

    before: date
    rows: int
    chunks: int
    """How many went as a whole."""
    entry: Expired
    """In the chain of seals."""

    @property
    def head_line(self) -> str:
        """What is kept elsewhere: number, head, and until when history is sealed."""
        return f"{self.entry.number} {self.entry.head.hex()} {show_time(self.entry.sealed_until)}"


@dataclass(frozen=True, slots=True)
class Due:
    """What would be removed."""

    before: date
    """Rows recorded before this UTC day."""
    rows: int


def due(url: str, days: int, *, clock: Clock = lambda: datetime.now(UTC)) -> Due:
    """What retain() would remove. Raises as retain()."""
    with connected(url, database.RETAIN) as connection:
        before = _before(connection, days, clock)
        steps = _steps(connection, look(connection), before)
        if not steps:
            return Due(before, 0)
        with connection.transaction(force_rollback=True):
            entry = expire(connection, steps[-1])
            return Due(steps[-1], 0 if entry is None else entry.rows)


def retain(
    url: str,
    days: int,
    *,
    accept_difference: bool = False,
    clock: Clock = lambda: datetime.now(UTC),
) -> Iterator[Removed]:
    """Remove what was recorded more than `days` days ago and is sealed, step by step, the oldest first.

    accept_difference: also where the rows are not as many as were sealed; the entry says how many they were.
    Raises NothingSealed, HistoryDiffers, HistoryInUse, ClocksDiffer, ChainBusy, DatabaseUnavailable,
    ConfigurationError.
    """
    with connected(url, database.RETAIN) as connection:
        before = _before(connection, days, clock)
        extension = look(connection)
        steps = _steps(connection, extension, before)
        if steps and extension.hypertable:
            _keep_sums(connection, steps[-1])
        pages: set[int] = set()
        try:
            for step in steps:
                try:
                    removed = _remove(connection, extension, step, pages)
                except HistoryDiffers as error:
                    if not accept_difference:
                        raise
                    removed = _remove(connection, extension, step, pages, error.there)
                if removed is not None:
                    yield removed
        except psycopg.errors.LockNotAvailable as error:
            raise HistoryInUse(
                "the oldest part of history is in use, so it cannot be removed now; try again later"
            ) from error
        finally:
            if pages and not connection.closed:
                _reuse(connection, pages)


def _before(connection: database.Connection, days: int, clock: Clock) -> date:
    """The UTC day from which history is kept: by both clocks, and by how far it is sealed."""
    theirs: datetime
    [(theirs,)] = connection.execute(CHAIN["clock"]).fetchall()
    _, sealed_until, _ = end_of_chain(connection)
    ours = clock()
    if abs(theirs - ours) > CLOCKS_APART_MAX:
        raise ClocksDiffer(
            f"nothing is removed, because the database's clock shows {show_time(theirs)} and this machine's "
            f"{show_time(ours)}. Set the clocks"
        )
    if sealed_until is None:
        raise NothingSealed(
            "history is removed only once it is sealed, and nothing is sealed yet: RISK_SEAL_EVERY=1h lets "
            "the workers seal, and riskstream seal run does it now"
        )
    newest = min(theirs, ours, sealed_until)
    return (newest.astimezone(UTC) - timedelta(days=days)).date()


def _steps(connection: database.Connection, extension: Extension, before: date) -> list[date]:
    """Each the end of a step: rows recorded before it go."""
    after, last = last_expiry(connection)
    asked = {"before": before, "after": after, "since": last}
    days = [day for (day,) in connection.execute(SQL["days"], asked)]
    ends = [day + timedelta(days=1) for day in days]
    if extension.hypertable:
        cuts = [day for (day,) in connection.execute(SQL["cuts"], {"before": before})]
        ends = [cuts[place] for day in days if (place := bisect_right(cuts, day)) < len(cuts)]
    # What came late for a day that had expired before goes with the next step.
    return sorted({end if last is None else max(end, last) for end in ends})


def _remove(
    connection: database.Connection,
    extension: Extension,
    before: date,
    pages: set[int],
    there: int | None = None,
) -> Removed | None:
    """None: nothing sealed is older. pages: gets those of a plain table that the rows lay in.

    there: how many rows there are; None: as many as were sealed.
    """
    with connection.transaction():
        entry = expire(connection, before, there)
        if entry is None:
            return None
        rows, dropped, rest = 0, 0, True
        if extension.hypertable:
            rows, dropped, rest = _drop_chunks(connection, entry, before)
        if rest:
            asked = {
                "before": before,
                "after": entry.after,
                "since": entry.since,
                "sealed_until": entry.sealed_until,
            }
            [(deleted, touched)] = connection.execute(SQL["remove"], asked).fetchall()
            rows += deleted
            if not extension.hypertable:
                pages.update(touched)
        if rows != entry.rows:
            raise HistoryDiffers(before, entry.rows, rows)
        return Removed(before, rows, dropped, entry)


def _keep_sums(connection: database.Connection, before: date) -> None:
    """Let the aggregates have what is removed, and no later refresh reach back to it.

    What came late for a time that was removed already is not summed up: it would take the place of its sums.
    """
    names = policies.continuous(connection)
    [(schema,)] = connection.execute(SQL["schema_of_extension"]).fetchall()
    # In no transaction: the procedure makes its own. Two days more, as a policy passes over half a bucket.
    refresh = sql.SQL("CALL {}.refresh_continuous_aggregate(%s::regclass, %s::timestamptz, %s::timestamptz)")
    _, last = last_expiry(connection)
    span = (last, before + timedelta(days=2))
    start, end = (None if day is None else datetime.combine(day, time(), UTC) for day in span)
    for name in names:
        connection.execute(refresh.format(sql.Identifier(schema)), (name, start, end))
    if names:
        with connection.transaction():
            policies.prepare(connection)
            policies.limit_refresh(connection, before)


def _drop_chunks(connection: database.Connection, entry: Expired, before: date) -> tuple[int, int, bool]:
    """(sealed rows dropped, chunks dropped, whether there may be more rows of before that day)."""
    see_its_functions(connection)
    connection.execute(SQL["let_much_be_decompressed"])
    spans: dict[tuple[datetime, datetime], int] = {}
    rest = False
    chunks_before = connection.execute(SQL["chunks_before"], {"before": before}).fetchall()
    for schema, name, start, end, whole in chunks_before:
        if not whole:  # rows were removed up to a day within it, while history was a plain table
            rest = True
            continue
        # Against rows that come late: whether there are some is not known before.
        connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(sql.Identifier(schema, name)))
        spans[start, end] = spans.get((start, end), 0) + 1
    connection.execute(SQL["make_room_for_unsealed"])
    rows = dropped = left = 0
    for (start, end), chunks in spans.items():
        span = {"start": start, "end": end, "sealed_until": entry.sealed_until}
        [(sealed, unsealed)] = connection.execute(SQL["rows_between"], span).fetchall()
        if unsealed and not sealed:
            continue
        if unsealed:  # what came late, and has to stay as it is until it is sealed
            connection.execute(SQL["take_unsealed"], span)
        connection.execute(SQL["drop_between"], {"start": start, "end": end})
        rows, dropped, left = rows + sealed, dropped + chunks, left + unsealed
    if left:
        connection.execute(SQL["put_unsealed_back"])
    return rows, dropped, rest


def _reuse(connection: database.Connection, pages: set[int]) -> None:
    """Make the room of removed rows usable, and their place in the index by stored_at fit for new ones.

    Who stores waits for neither. Where this is not done to its end, the next VACUUM does the rest.
    """
    if not connection.pooled:
        connection.execute("SET lock_timeout = 0")  # another VACUUM is waited for
    connection.execute(SQL["forget_ranges"], {"pages": sorted(pages)})
    connection.execute("VACUUM risk_state_history")  # in no transaction
