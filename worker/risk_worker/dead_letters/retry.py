"""Stores dead letters again, as the drain does, or tells what that would do.

A retry stores first and removes the dead letter afterwards, so a crash between the two leaves both, and the
next retry finds the snapshot stored already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from risk_producer.contract.keys import namespace_of
from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_worker.database.reader import DatabaseUnavailable, as_of_one_moment, connected
from risk_worker.database.store import PostgresStore
from risk_worker.dead_letters.select import DeadLetterFilter, DeadLetterRow, rows
from risk_worker.drain.batch import Batch, DeadLetter, Outcome, StreamEntry, decode_entries, is_not_given_out
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable

CHUNK_ROWS: Final = 500
CHUNK_BYTES: Final = 16 * 1024 * 1024

_SQL: Final = statements(__package__, "retry.sql")


@dataclass(slots=True)
class RetryResult:
    """What became of the dead letters, in numbers."""

    stored: int = 0
    duplicates: int = 0
    """Those of `stored` that history had already."""
    still_dead: int = 0


def retry(
    url: str,
    which: DeadLetterFilter,
    *,
    on_result: Callable[[DeadLetterRow, str | None], None],
    assigns_traders: bool = False,
) -> RetryResult:
    """Store what can be stored by now, as the drain does; the rest stays, with its new reason.

    History is filled; risk_state moves on where a dead letter is newer than it, never back.
    assigns_traders: as PostgresStore has it. on_result() is called for each dead letter: with None when it is
    stored and removed, else with the reason.
    Raises DatabaseUnavailable, ConfigurationError.
    """
    result = RetryResult()
    with (
        PostgresStore(url, assigns_traders=assigns_traders) as store,
        connected(url) as connection,
        contextlib.closing(rows(url, which, by_stream=True)) as selected,
    ):
        for chunk in _chunks(selected):
            by_entry = {row.entry_id: row for row in chunk}
            batch = decode_entries(chunk[0].stream, [_entry(each) for each in chunk])
            undecodable = {each.entry_id: each for each in batch.dead}
            batch.dead.clear()  # they have their rows already
            outcome = _saved(store, batch)
            dead = undecodable | {each.entry_id: each for each in outcome.dead}
            with connection.transaction():
                for entry_id, row in by_entry.items():
                    if entry_id in dead:
                        on_result(row, _update(connection, row, dead[entry_id]))
                    else:
                        connection.execute(_SQL["remove"], _name(row))
                        on_result(row, None)
            result.stored += len(chunk) - len(dead)
            result.duplicates += outcome.duplicates
            result.still_dead += len(dead)
    return result


def plan(url: str, which: DeadLetterFilter) -> Iterator[tuple[DeadLetterRow, str, bool]]:
    """What retry() would do, as far as that can be known: (row, outcome, whether it would be tried).

    Raises DatabaseUnavailable, ConfigurationError.
    """
    with (
        connected(url) as connection,
        as_of_one_moment(connection),
        contextlib.closing(rows(url, which)) as selected,
    ):
        for row in selected:
            batch = decode_entries(row.stream, [_entry(row)])
            if batch.dead:
                yield row, f"would stay dead: {_reason(row, batch.dead[0])}", False
                continue
            snapshot = batch.rows[0].snapshot
            identity = {
                name: getattr(snapshot, name) for name in ("trader_id", "recorded_at", "epoch", "seq")
            }
            [(stored, state_is_newer)] = connection.execute(_SQL["is_stored"], identity)
            if stored:
                yield row, "is stored already: the dead letter would be removed", True
            elif state_is_newer:
                yield row, "would be tried: history gets it, the state is newer and stays", True
            else:
                yield row, "would be tried: history gets it, and the state moves on to it", True


def _entry(row: DeadLetterRow) -> StreamEntry:
    """To try it again; what no producer sent stays dead, for it could move the trader's state."""
    return StreamEntry(row.entry_id, row.payload, row.reason if is_not_given_out(row.reason) else None)


def _chunks(selected: Iterator[DeadLetterRow]) -> Iterator[list[DeadLetterRow]]:
    """Rows of one stream at a time, bounded in number and bytes."""
    chunk: list[DeadLetterRow] = []
    size = 0
    for row in selected:
        if chunk and (
            row.stream != chunk[0].stream or len(chunk) >= CHUNK_ROWS or size + len(row.payload) > CHUNK_BYTES
        ):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.payload)
    if chunk:
        yield chunk


def _saved(store: PostgresStore, batch: Batch) -> Outcome:
    try:
        return store.save(batch)
    except StoreUnavailable as error:
        raise DatabaseUnavailable(f"the retry stopped at an error of the database: {error}") from error
    except StoreMisconfigured as error:
        raise ConfigurationError(str(error)) from error


def _update(connection: psycopg.Connection, row: DeadLetterRow, dead: DeadLetter) -> str:
    """save() has left the row as it was: give it today's reason. Returns that."""
    reason = _reason(row, dead)
    snapshot = dead.identity
    now = {
        "reason": reason.replace("\0", "\\0"),
        "sqlstate": dead.sqlstate,
        "trader_id": snapshot.trader_id if snapshot else row.trader_id,
        "epoch": snapshot.epoch if snapshot else row.epoch,
        "seq": snapshot.seq if snapshot else row.seq,
        "came_by": namespace_of(row.stream),
    }
    connection.execute(_SQL["update"], _name(row) | now)
    return reason


def _reason(row: DeadLetterRow, dead: DeadLetter) -> str:
    """Of an entry with foreign fields the row holds a JSON list of them: the first reason says more."""
    foreign = dead.identity is None and row.payload.startswith(b"[")
    return row.reason if foreign else dead.reason


def _name(row: DeadLetterRow) -> dict[str, Any]:
    return {"stream": row.stream, "entry_id": row.entry_id, "payload": row.payload}
