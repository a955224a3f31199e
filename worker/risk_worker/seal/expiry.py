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
    """How many rows there are: recorded before the day, and stored before sealed_until."""
    sealed_until: datetime
    head: bytes


def expire(connection: psycopg.Connection, before: date) -> Expired | None:
    """Add the entry that lets what was recorded before a UTC day expire, in the caller's transaction.

    None: nothing that is sealed was recorded before and is still there; nothing is added. The caller removes
    the rows, and compares how many they are: an entry must not cover up what is missing.
    Raises ChainBusy, which ends the transaction, and psycopg.Error.
    """
    lock(connection)
    _, sealed_until, _ = end_of_chain(connection)
    [(leaves, rows)] = connection.execute(SQL["expire"], {"before": before}).fetchall()
    if sealed_until is None or not leaves:
        return None
    words = {"version": VERSION, "before": before, "leaves": leaves, "rows": rows}
    [(number,)] = connection.execute(SQL["add_expiry"], words).fetchall()
    entry = run_of(connection, number)
    assert entry is not None
    return Expired(number, leaves, rows, sealed_until, entry.head)
