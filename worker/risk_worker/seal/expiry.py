"""What retention removes expires: an entry of the chain says so, before the rows are gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import psycopg

from risk_worker.seal.chain import SQL, VERSION, end_of_chain, lock, run_of


@dataclass(frozen=True, slots=True)
class Expired:
    """What has to be removed in the transaction that added the entry."""

    number: int
    """Of the entry."""
    leaves: int
    rows: int
    """How many rows there have to be: recorded before the day, and stored before sealed_until."""
    after: int
    """The number of the entry "expired" before this one; 0: it is the first."""
    since: date | None
    """The day of that one."""
    sealed_until: datetime
    head: bytes


def last_expiry(connection: psycopg.Connection) -> tuple[int, date | None]:
    """(number of the last entry "expired", the UTC day before which it removed rows); (0, None): none."""
    found = connection.execute(SQL["last_expiry"]).fetchone()
    return (0, None) if found is None else (found[0], found[1])


def expire(connection: psycopg.Connection, before: date, rows: int | None = None) -> Expired | None:
    """Add the entry that lets what was recorded before a UTC day expire, in the caller's transaction.

    rows: how many there are, where it is known that they are not as many as were sealed; the entry says so,
    and verify() shows it from then on.
    None: nothing that is sealed was recorded before and is still there; nothing is added. The caller removes
    the rows, and compares how many they are: an entry must not cover up what is missing.
    Raises ChainBusy, which ends the transaction, and psycopg.Error.
    """
    lock(connection)
    _, sealed_until, _ = end_of_chain(connection)
    after, since = last_expiry(connection)
    asked = {"before": before, "after": after, "since": since}
    [(leaves, sealed)] = connection.execute(SQL["expire"], asked).fetchall()
    if sealed_until is None or not leaves:
        return None
    words = {
        "version": VERSION,
        "before": before,
        "leaves": leaves,
        "rows": sealed if rows is None else rows,
    }
    [(number,)] = connection.execute(SQL["add_expiry"], words).fetchall()
    entry = run_of(connection, number)
    assert entry is not None
    return Expired(number, leaves, entry.rows, after, since, sealed_until, entry.head)
