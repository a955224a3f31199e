"""Drops dead letters, by an entry in the chain of seals: what is missing of history then is no loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.contract.wire import identity_of
from risk_worker.database.reader import connected
from risk_worker.dead_letters.select import DeadLetterFilter
from risk_worker.seal import drops
from risk_worker.seal.chain import Run
from risk_worker.seal.drops import Drop

AT_ONCE: Final = 100
"""Of them none has more than 64 kB."""

_CHOOSE: Final = statements(__package__, "select.sql")
_SQL: Final = statements(__package__, "drop.sql")


def drop(url: str, which: DeadLetterFilter, *, by: str) -> Run | None:
    """Delete dead letters for good, and add an entry to the chain that names them, in one transaction.

    by: user@host. Returns the entry; None: there was no such dead letter.
    Raises DatabaseUnavailable, ConfigurationError, ChainBusy.
    """
    with connected(url) as connection, connection.transaction():
        number = drops.next_number(connection)
        if not _write(connection, number, which, by):
            return None
        connection.execute(_SQL["remove"], {"number": number})
        return drops.add_entry(connection, number)


def _write(connection: psycopg.Connection, number: int, which: DeadLetterFilter, by: str) -> int:
    """What is to be dropped, into the entry. Returns how many dead letters there are."""
    written = 0
    with connection.cursor("to_drop") as cursor:
        cursor.execute(_CHOOSE["to_drop"], asdict(which))
        while chosen := cursor.fetchmany(AT_ONCE):
            drops.add_drops(connection, [_drop(number, by, row) for row in chosen])
            written += len(chosen)
    return written


def _drop(number: int, by: str, row: Sequence[Any]) -> Drop:
    stream, entry_id, trader_id, epoch, seq, reason, payload, digest = row
    if None in (trader_id, epoch, seq):
        return Drop(number, stream, entry_id, None, None, None, None, reason, by, digest)
    found = identity_of(payload)
    merged = found.merged if found is not None and (found.epoch, found.seq) == (epoch, seq) else 0
    return Drop(number, stream, entry_id, trader_id, epoch, seq - merged, seq, reason, by, digest)
