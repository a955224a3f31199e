"""What operators drop of the dead letters is an entry of the chain, with what each of them stood for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import psycopg

from risk_worker.database.reader import connected
from risk_worker.seal.chain import SQL, VERSION, ChainBusy, Run, encoding, end_of_chain, run_of

WAIT: Final = "30s"
"""How long an operator waits while another process adds to the chain: a run takes seconds."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A dead letter that was dropped."""

    run: int
    """Number of the entry."""
    stream: str
    entry_id: str
    trader_id: str | None
    epoch: int | None
    first_seq: int | None
    last_seq: int | None
    """The seq numbers that it stood for. None: its trader, epoch and seq could not be read."""
    reason: str
    """Why it could not be stored."""
    dropped_by: str
    """user@host"""
    digest: bytes
    """SHA-256 of its payload."""
    database_user: str | None = None
    """None: that of this connection."""
    dropped_at: datetime | None = None
    """By the database's clock. None: now; or there is no such entry."""


def next_number(connection: psycopg.Connection) -> int:
    """The number of the entry that this transaction will add; until it ends no one else adds one.

    Raises ChainBusy, which ends the transaction.
    """
    connection.execute(SQL["set_lock_timeout"], {"timeout": WAIT})
    try:
        connection.execute(SQL["wait_for_chain"])
    except psycopg.errors.LockNotAvailable as error:
        raise ChainBusy(
            f"another process has been adding to the chain of seals for {WAIT}; nothing was dropped, try it "
            "again"
        ) from error
    last, _, _ = end_of_chain(connection)
    return 1 if last is None else last + 1


def add_drops(connection: psycopg.Connection, drops: Sequence[Drop]) -> None:
    """Write what the entry will have; more may follow in the same transaction."""
    with connection.cursor() as cursor:
        cursor.executemany(SQL["add_drop"], [asdict(each) for each in drops])


def add_entry(connection: psycopg.Connection, number: int) -> Run:
    """Add the entry over all that was written under its number."""
    words = {"number": number, "version": VERSION, **encoding(connection)}
    connection.execute(SQL["add_dropped"], words)
    entry = run_of(connection, number)
    assert entry is not None
    return entry


def dropped(url: str, *, number: int | None = None, trader: str | None = None) -> list[Drop]:
    """What was dropped, in order: by one entry, or by all; of one trader, or of all.

    Raises DatabaseUnavailable, ConfigurationError.
    """
    asked = {"number": number, "trader": trader}
    with connected(url) as connection:
        return [Drop(*row) for row in connection.execute(SQL["drops"], asked)]
