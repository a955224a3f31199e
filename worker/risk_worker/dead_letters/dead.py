"""`riskstream dead`: look at what could not be stored, try it again, or drop it.

A letter is named by its stream and its entry id. Retry stores first and removes the letter afterwards, so a
crash between the two leaves both, and the next retry finds the snapshot stored already.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import class_row

from risk_producer.errors import ConfigurationError
from risk_worker.database.reader import DatabaseTrouble, as_of_one_moment, connected
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Batch, DeadLetter, Entry, Outcome, decode_entries, is_not_given_out
from risk_worker.drain.loop import StoreMisconfigured, StoreUnavailable

CHUNK_LETTERS: Final = 500
CHUNK_BYTES: Final = 16 * 1024 * 1024
_FETCHED_AT_ONCE: Final = 10  # an entry may have some megabytes

_NOTHING: Final = sql.SQL("TRUE")
_SELECT: Final = sql.SQL(
    "SELECT stream, entry_id, failed_at, reason, sqlstate, trader_id, epoch, seq, payload"
    " FROM risk_dead_letter WHERE {} ORDER BY {}"
)
# By the payload too: the name alone could be another letter's by now.
_THIS: Final = "stream = %(stream)s AND entry_id = %(entry_id)s AND payload = %(payload)s"
_DELETE: Final = f"DELETE FROM risk_dead_letter WHERE {_THIS}"  # noqa: S608  # constants alone
_BURY_AGAIN: Final = (
    "UPDATE risk_dead_letter SET reason = %(reason)s, sqlstate = %(sqlstate)s, trader_id = %(trader_id)s,"  # noqa: S608
    f" epoch = %(epoch)s, seq = %(seq)s WHERE {_THIS}"
)
_STORED: Final = (
    "SELECT EXISTS (SELECT FROM risk_state_history WHERE (trader_id, recorded_at, epoch, seq)"
    " = (%(trader_id)s, %(recorded_at)s, %(epoch)s, %(seq)s)),"
    " EXISTS (SELECT FROM risk_state WHERE trader_id = %(trader_id)s"
    " AND (epoch, seq) >= (%(epoch)s, %(seq)s))"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: those for which everything holds that is not None."""

    stream: str | None = None
    entry_id: str | None = None
    trader_id: str | None = None
    reason: str | None = None
    """A part of the reason, in any case of letters."""
    older_than: timedelta | None = None
    """Put there longer ago than this, by the database's clock."""
    newer_than: timedelta | None = None
    until: datetime | None = None
    """Put there up to this moment: those that came after somebody looked are not meant."""

    @property
    def everything(self) -> bool:
        """Whether no condition is set."""
        return self == Wanted()

    def condition(self) -> tuple[sql.Composable, dict[str, Any]]:
        """(condition, its parameters)."""
        conditions = {
            "stream": "stream = %(stream)s",
            "entry_id": "entry_id = %(entry_id)s",
            "trader_id": "trader_id = %(trader_id)s",
            "reason": "position(lower(%(reason)s) IN lower(reason)) > 0",
            "older_than": "failed_at < now() - %(older_than)s",
            "newer_than": "failed_at > now() - %(newer_than)s",
            "until": "failed_at <= %(until)s",
        }
        set_ = {name: getattr(self, name) for name in conditions if getattr(self, name) is not None}
        parts = [sql.SQL(conditions[name]) for name in set_]
        return (sql.SQL(" AND ").join(parts) if parts else _NOTHING), set_


@dataclass(frozen=True, slots=True)
class Letter:
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

    def shown(self) -> dict[str, Any]:
        """For JSON. payload_base64 are the original bytes; payload is None where those are no text."""
        return {
            "stream": self.stream,
            "entry_id": self.entry_id,
            "failed_at": self.failed_at.astimezone(UTC),
            "reason": self.reason,
            "sqlstate": self.sqlstate,
            "trader_id": self.trader_id,
            "epoch": self.epoch,
            "seq": self.seq,
            "payload": self.text,
            "payload_base64": base64.b64encode(self.payload).decode(),
        }


@dataclass(slots=True)
class Retried:
    """What became of the letters that were tried again."""

    stored: int = 0
    duplicates: int = 0
    """Those of `stored` that history had already."""
    still_dead: int = 0


class DeadLetters:
    """The dead letters of the database at a libpq URL. Not thread-safe.

    Every method may raise DatabaseTrouble, or ConfigurationError where somebody has to act.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def count(self, wanted: Wanted) -> tuple[int, Wanted]:
        """(how many there are, these and no later ones)."""
        condition, parameters = wanted.condition()
        query = sql.SQL("SELECT count(*), now() FROM risk_dead_letter WHERE {}").format(condition)
        with connected(self._url) as connection, as_of_one_moment(connection):
            [(count, now)] = connection.execute(query, parameters)
        return int(count), replace(wanted, until=wanted.until or now)

    def letters(
        self, wanted: Wanted, *, limit: int | None = None, by_stream: bool = False
    ) -> Generator[Letter, None, None]:
        """The letters as of now, the oldest first (of each stream), a few at a time."""
        condition, parameters = wanted.condition()
        order = "stream, failed_at, entry_id" if by_stream else "failed_at, stream, entry_id"
        query: sql.Composed = _SELECT.format(condition, sql.SQL(order))
        if limit is not None:
            query += sql.SQL(" LIMIT {}").format(sql.Literal(limit))
        with (
            connected(self._url) as connection,
            as_of_one_moment(connection),
            connection.cursor("letters", row_factory=class_row(Letter)) as cursor,
        ):
            cursor.itersize = _FETCHED_AT_ONCE
            yield from cursor.execute(query, parameters)

    def retry(self, wanted: Wanted, *, said: Callable[[Letter, str | None], None]) -> Retried:
        """Store what can be stored by now, as the drain does; the rest stays, with its new reason.

        History is filled; risk_state moves on where a letter is newer than it, never back.
        said() is called for each letter: with None when it is stored and gone, else with why not.
        """
        retried = Retried()
        with (
            PostgresStore(self._url) as store,
            connected(self._url) as connection,
            contextlib.closing(self.letters(wanted, by_stream=True)) as letters,
        ):
            for chunk in _chunks(letters):
                by_entry = {letter.entry_id: letter for letter in chunk}
                batch = decode_entries(chunk[0].stream, [_entry(each) for each in chunk])
                undecodable = {each.entry_id: each for each in batch.dead}
                batch.dead.clear()  # they are buried already
                outcome = _saved(store, batch)
                dead = undecodable | {each.entry_id: each for each in outcome.dead}
                with connection.transaction():
                    for entry_id, letter in by_entry.items():
                        if entry_id in dead:
                            reason = _bury_again(connection, letter, dead[entry_id])
                            said(letter, reason)
                        else:
                            connection.execute(_DELETE, _name(letter))
                            said(letter, None)
                retried.stored += len(chunk) - len(dead)
                retried.duplicates += outcome.duplicates
                retried.still_dead += len(dead)
        return retried

    def foresee(self, wanted: Wanted) -> Iterator[tuple[Letter, str, bool]]:
        """What retry() would do, as far as that can be known without doing it: (letter, what, try)."""
        with (
            connected(self._url) as connection,
            as_of_one_moment(connection),
            contextlib.closing(self.letters(wanted)) as letters,
        ):
            for letter in letters:
                batch = decode_entries(letter.stream, [_entry(letter)])
                if batch.dead:
                    yield letter, f"would stay dead: {_reason(letter, batch.dead[0])}", False
                    continue
                [snapshot] = batch.snapshots
                identity = {
                    name: getattr(snapshot, name) for name in ("trader_id", "recorded_at", "epoch", "seq")
                }
                [(stored, state_is_newer)] = connection.execute(_STORED, identity)
                if stored:
                    yield letter, "is stored already: the letter would go", True
                elif state_is_newer:
                    yield letter, "would be tried: history gets it, the state is newer and stays", True
                else:
                    yield letter, "would be tried: history gets it, and the state moves on to it", True

    def drop(self, wanted: Wanted) -> int:
        """Delete the letters for good. Returns how many those were."""
        condition, parameters = wanted.condition()
        query = sql.SQL("DELETE FROM risk_dead_letter WHERE {}").format(condition)
        with connected(self._url) as connection, connection.transaction():
            return connection.execute(query, parameters).rowcount


def _entry(letter: Letter) -> Entry:
    """To try it again; what no producer sent stays dead, for it could move the trader's state."""
    return Entry(letter.entry_id, letter.payload, letter.reason if is_not_given_out(letter.reason) else None)


def _chunks(letters: Iterator[Letter]) -> Iterator[list[Letter]]:
    """Letters of one stream at a time, bounded in number and bytes."""
    chunk: list[Letter] = []
    size = 0
    for letter in letters:
        if chunk and (
            letter.stream != chunk[0].stream
            or len(chunk) >= CHUNK_LETTERS
            or size + len(letter.payload) > CHUNK_BYTES
        ):
            yield chunk
            chunk, size = [], 0
        chunk.append(letter)
        size += len(letter.payload)
    if chunk:
        yield chunk


def _saved(store: PostgresStore, batch: Batch) -> Outcome:
    try:
        return store.save(batch)
    except StoreUnavailable as error:
        raise DatabaseTrouble(f"stopped at what the database said: {error}") from error
    except StoreMisconfigured as error:
        raise ConfigurationError(str(error)) from error


def _bury_again(connection: psycopg.Connection, letter: Letter, dead: DeadLetter) -> str:
    """save() has left the letter as it was: give it today's reason. Returns that."""
    reason = _reason(letter, dead)
    snapshot = dead.identity
    now = {
        "reason": reason.replace("\0", "\\0"),
        "sqlstate": dead.sqlstate,
        "trader_id": snapshot.trader_id if snapshot else letter.trader_id,
        "epoch": snapshot.epoch if snapshot else letter.epoch,
        "seq": snapshot.seq if snapshot else letter.seq,
    }
    connection.execute(_BURY_AGAIN, _name(letter) | now)
    return reason


def _reason(letter: Letter, dead: DeadLetter) -> str:
    """Of an entry with foreign fields the letter holds a JSON list of them: the first reason says more."""
    foreign = dead.identity is None and letter.payload.startswith(b"[")
    return letter.reason if foreign else dead.reason


def _name(letter: Letter) -> dict[str, Any]:
    return {"stream": letter.stream, "entry_id": letter.entry_id, "payload": letter.payload}


def as_json(letters: Iterable[Letter]) -> Iterator[str]:
    """A JSON array of letters, in pieces."""
    separator = "[\n"
    for letter in letters:
        yield separator + msgspec.json.format(msgspec.json.encode(letter.shown())).decode()
        separator = ",\n"
    yield "[]" if separator == "[\n" else "\n]"


def one_line(letter: Letter) -> str:
    """For the list."""
    when = letter.failed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whose = "-" if letter.trader_id is None else f"{letter.trader_id}/{letter.epoch}/{letter.seq}"
    state = f"[{letter.sqlstate}] " if letter.sqlstate else ""
    return f"{letter.stream} {letter.entry_id}  {when}  {whose}  {state}{letter.reason}"


def in_full(letter: Letter) -> str:
    """Everything about one letter, for a person."""
    shown = letter.shown()
    payload = shown.pop("payload")
    encoded = shown.pop("payload_base64")
    lines = [f"{name:<10} {'-' if value is None else value}" for name, value in shown.items()]
    lines.append(f"{'payload':<10} {len(letter.payload):,} bytes")
    lines.append(payload if payload is not None else f"base64:{encoded}")
    return "\n".join(lines)
