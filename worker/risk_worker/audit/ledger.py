"""The ledger: what is stored in Postgres, for each epoch of each trader, counted by the database itself.

Within an epoch, seq runs 1, 2, 3 ... without gaps; a stored row stands for its own seq and for the `merged`
ones just before it, a dead letter likewise. So the ledger shows by itself whether something is missing or
duplicated, even where Redis no longer knows how much was accepted.

What is sealed is not read again: of each epoch the seals have a running total, with the seq numbers that
are covered. So what is read grows with the epochs and with what was stored since the last run. Whether the
rows are those that were sealed, `riskstream seal verify --deep` reads.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import msgspec
import psycopg

from risk_producer.contract.statements import statements
from risk_producer.contract.wire import identity_of
from risk_worker.audit.ranges import Range, Segment, gaps_between, size, subtract, touches
from risk_worker.database.reader import as_of_one_moment, connected

EpochKey = tuple[str, int]
"""(trader_id, epoch)"""

BEGINNING: Final = "-infinity"
"""From here on history is read where nothing is sealed."""

PIECE_BITS: Final = 14
"""An epoch is looked at in pieces of 2^14 seq numbers, see the statement `pieces`."""

_RANGE: Final = re.compile(r"\[(\d+),(\d+)\)")
_SEALED: Final = -1
"""In place of a piece's number."""
_NO_ROW: Final = (0, 0, False)

_LATER: Final = datetime.max.replace(tzinfo=UTC)
"""Stands for when the rows of a sealed range were recorded, which is not asked: a gap beside it is a loss."""

_SQL: Final = statements(__package__, "ledger.sql")

_ENCODINGS: Final = {"SQL_ASCII": "utf-8"} | {f"WIN{n}": f"cp{n}" for n in (866, 874, *range(1250, 1259))}
"""Postgres' names, where Python does not know them, too. SQL_ASCII takes any bytes."""


@dataclass(frozen=True, slots=True)
class EpochTotals:
    """What the database knows of the snapshots of one epoch. All are numbers of snapshots."""

    stored: int
    """Rows in history, and those that have expired."""
    dead: int
    conflated: int
    missing: int
    duplicates: int
    gaps: Sequence[Range] = field(default=(), compare=False)
    """Where the missing ones are."""
    highest: int = field(default=0, compare=False)
    """The highest seq that the database knows of."""
    expired: Sequence[Range] = field(default=(), compare=False)
    """Gaps between or below its rows that lie before the horizon; dead letters may be in them."""
    highest_row: int = field(default=0, compare=False)
    """The highest seq of its rows in history."""
    foreign: int = 0
    """Dead letters in its name that no producer put into the stream."""
    gone: int = 0
    """How many of the rows have expired: retention has removed them, as the chain of seals says."""


NOTHING: Final = EpochTotals(0, 0, 0, 0, 0)
"""The totals of an epoch that the database does not know."""


@dataclass(frozen=True, slots=True)
class State:
    """The identity of the snapshot in a row of risk_state."""

    epoch: int
    seq: int
    recorded_at: datetime
    expired: bool = False
    """Whether its row of history may have expired."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole database as of one moment."""

    epochs: Mapping[EpochKey, EpochTotals]
    rows: int = 0
    stale: tuple[str, ...] = ()
    """Traders whose risk_state is not the newest of their history."""
    unidentified: int = 0
    """Dead letters that do not name their trader, epoch and seq."""
    dead_but_stored: int = 0
    """Dead letters of what is stored all the same: a retry was ended before it removed the row."""
    horizon: datetime | None = None
    """What was recorded before it may be gone from history; None: nothing may."""
    states: Mapping[str, State] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    """Trader -> the namespace that it belongs to; without those that belong to none."""
    dropped: Mapping[EpochKey, Sequence[Range]] = field(default_factory=dict)
    """What dropped dead letters stood for, whether it is stored by now or not."""
    sealed_until: str = field(default=BEGINNING, compare=False)
    """What was stored earlier is not read: the seals have its totals. As Postgres writes it."""

    @property
    def foreign(self) -> int:
        """Dead letters of entries that no producer put into the stream."""
        return self.unidentified + sum(totals.foreign for totals in self.epochs.values())


class _Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of an epoch: the rows whose seq have the same upper bits; or a range that is sealed."""

    number: int
    rows: int
    merged: int
    low: int
    high: int
    recorded_at: datetime
    sound: bool
    gone: int = 0


_Pieces = Mapping[EpochKey, Sequence[_Piece]]

Admitted = Callable[[Sequence[EpochKey], Mapping[str, str]], Sequence[int | None]]
"""The last seq that Redis admitted of each epoch, given the owners; None: that cannot be read."""


def read(
    url: str, trader: str | None = None, *, admitted: Admitted | None = None, horizon: datetime | None = None
) -> Ledger:
    """Read the ledger of the database at a libpq URL, as of one moment; of one trader, or of all.

    admitted: shows which dead letters are foreign; None: all that have an identity are a producer's.
    horizon: what was recorded before it may be gone; None: as TimescaleDB's oldest chunk says.
    Raises DatabaseUnavailable, ConfigurationError, MigrationError.
    """
    with connected(url) as connection, as_of_one_moment(connection):
        # No trader has the name "": of one that the encoding cannot hold there are dead letters alone.
        [(sealed_until, expired_until)] = connection.execute(_SQL["sealed"])
        asked = {
            "trader": trader if trader is None or _can_hold(connection, trader) else "",
            "since": sealed_until,
            "expired": expired_until,
        }
        pieces = _read_pieces(connection, asked)
        dead_letters, unreadable = _read_dead_letters(connection, asked, trader)
        [(unidentified,)] = connection.execute(_SQL["unidentified"], asked)
        # Where riskstream's own retention is at work, the totals know what has expired.
        if (
            horizon is None
            and expired_until is None
            and connection.execute(_SQL["has_timescaledb"]).fetchone() == (True,)
        ):
            [(horizon,)] = connection.execute(_SQL["horizon"])
        states: dict[str, tuple[State, bool, bool]] = {}
        owners: dict[str, str] = {}
        for trader_id, epoch, seq, recorded_at, there, expired, same, owner in connection.execute(
            _SQL["states"], asked
        ):
            states[trader_id] = (State(epoch, seq, recorded_at, expired), there, same)
            if owner is not None:
                owners[trader_id] = owner
        dropped = {
            (trader_id, epoch): [(int(first), int(end) - 1) for first, end in _RANGE.findall(covered)]
            for trader_id, epoch, covered in connection.execute(_SQL["dropped"], asked)
        }
        connection.execute(_SQL["no_nested_loops"])
        gaps, expired_gaps = _read_gaps(connection, asked, pieces, horizon)

    foreign = _foreign(dead_letters, pieces, owners, admitted)
    epochs: dict[EpochKey, EpochTotals] = {}
    dead_but_stored = 0
    for key in sorted(pieces.keys() | dead_letters.keys()):
        mine = dead_letters.get(key, [])
        totals = _totals(
            pieces.get(key, ()), gaps.get(key, []), mine, expired_gaps.get(key, []), foreign.get(key, 0)
        )
        epochs[key] = totals
        dead_but_stored += len(mine) - totals.dead
    return Ledger(
        epochs,
        sum(totals.stored - totals.gone for totals in epochs.values()),
        _stale(pieces, states, horizon),
        int(unidentified) + unreadable,
        dead_but_stored,
        horizon,
        {trader_id: state for trader_id, (state, _, _) in states.items()},
        owners,
        dropped,
        sealed_until,
    )


def found_since(
    url: str,
    missing: Mapping[EpochKey, Sequence[Range]],
    trader: str | None = None,
    since: str = BEGINNING,
) -> bool:
    """Whether the database has by now any of the seq numbers that were missing. Raises as read() does.

    since: sealed_until of the ledger in which they were missing.
    """
    spans = {key: (gaps[0][0], gaps[-1][1]) for key, gaps in missing.items() if gaps}
    arrays = {
        "trader": trader,
        "since": since,
        "traders": [trader_id for trader_id, _ in spans],
        "epochs": [epoch for _, epoch in spans],
        "firsts": [first for first, _ in spans.values()],
        "lasts": [last for _, last in spans.values()],
    }
    found: dict[EpochKey, list[Range]] = defaultdict(list)
    with connected(url) as connection, as_of_one_moment(connection):
        if not all(_can_hold(connection, trader_id) for trader_id, _ in spans):
            return True  # the database cannot be asked for them by name
        connection.execute(_SQL["no_nested_loops"])
        with connection.cursor("found") as cursor:
            cursor.itersize = 10_000
            for trader_id, epoch, first, last in cursor.execute(_SQL["found_since"], arrays):
                found[trader_id, epoch].append((first, last))
    return any(touches(missing[key], pieces) for key, pieces in found.items())


def recorded_before(url: str, epochs: Sequence[EpochKey], since: datetime) -> dict[EpochKey, int]:
    """The highest seq of each epoch that was recorded before a time; none of those that have no such row.

    Raises as read().
    """
    asked = {"since": since, "traders": [key[0] for key in epochs], "epochs": [key[1] for key in epochs]}
    with connected(url) as connection:
        rows = connection.execute(_SQL["recorded_before"], asked).fetchall() if epochs else []
    return {(trader_id, epoch): seq for trader_id, epoch, seq in rows if seq is not None}


def _can_hold(connection: psycopg.Connection, text: str) -> bool:
    """Whether the database's encoding has all characters of a text; where it is not known: yes."""
    name = connection.info.parameter_status("server_encoding") or ""
    try:
        text.encode(_ENCODINGS.get(name, name))
    except UnicodeEncodeError:
        return False
    except LookupError:
        return True
    return True


class _Wire(msgspec.Struct):
    """What is wanted of a dead letter's payload."""

    merged: int = 0


def _read_pieces(connection: psycopg.Connection, asked: Mapping[str, Any]) -> dict[EpochKey, list[_Piece]]:
    """The pieces of each epoch, in the order of their beginnings."""
    pieces: dict[EpochKey, list[_Piece]] = defaultdict(list)
    for trader_id, epoch, rows, merged, gone, covered in connection.execute(_SQL["totals"], asked):
        for number, (first, end) in enumerate(_RANGE.findall(covered)):
            total = (0, 0, 0) if number else (rows, int(merged), gone)  # of all ranges together
            low, high = int(first) - 1, int(end) - 1
            piece = _Piece(_SEALED, total[0], total[1], low, high, _LATER, True, total[2])
            pieces[trader_id, epoch].append(piece)
    wanted = {**asked, "piece_bits": PIECE_BITS}
    found = connection.execute(_SQL["pieces"], wanted)
    for trader_id, epoch, number, rows, merged, low, high, recorded_at, sound in found:
        pieces[trader_id, epoch].append(_Piece(number, rows, int(merged), low, high, recorded_at, sound))
    for each in pieces.values():
        if len(each) > 1:
            each.sort(key=lambda piece: piece.low)
    return pieces


def _read_dead_letters(
    connection: psycopg.Connection, asked: Mapping[str, Any], trader: str | None
) -> tuple[dict[EpochKey, list[Range]], int]:
    """The seq numbers that each dead letter stands for, and how many have no readable identity.

    A trader_id that the database's encoding cannot hold is in the payload alone.
    """
    dead_letters: dict[EpochKey, list[Range]] = defaultdict(list)
    unidentified = 0
    decoder = msgspec.json.Decoder(_Wire)
    with connection.cursor("dead_letters") as cursor:
        cursor.itersize = 500
        for trader_id, epoch, seq, payload in cursor.execute(_SQL["dead_letters"], asked):
            if trader_id is None:
                identity = identity_of(payload)
                if identity is None or (identity.epoch, identity.seq) != (epoch, seq):
                    unidentified += trader is None
                    continue
                if trader not in (None, identity.trader_id):
                    continue
                trader_id = identity.trader_id
            try:
                merged = decoder.decode(payload).merged
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                merged = 0
            if not 0 <= merged < seq:
                merged = 0
            dead_letters[trader_id, epoch].append((seq - merged, seq))
    return dead_letters, unidentified


def _read_gaps(
    connection: psycopg.Connection, asked: Mapping[str, Any], pieces: _Pieces, horizon: datetime | None
) -> tuple[dict[EpochKey, list[Range]], dict[EpochKey, list[Range]]]:
    """Of epochs that are not sound: (what no row below the highest stands for, what of that is expired)."""
    suspects = {key: parts for key, parts in pieces.items() if not _is_sound(parts)}
    if not suspects:
        return {}, {}
    broken = [(key, part.number) for key, parts in suspects.items() for part in parts if not part.sound]
    arrays = {
        "traders": [key[0] for key, _ in broken],
        "epochs": [key[1] for key, _ in broken],
        "pieces": [number for _, number in broken],
        "piece_bits": PIECE_BITS,
    }
    gaps: dict[EpochKey, list[Range]] = {}
    expired: dict[EpochKey, list[Range]] = {}

    def look(key: EpochKey, rows: Iterable[Segment]) -> None:
        sound = ((part.low, part.high, part.recorded_at) for part in suspects[key] if part.sound)
        began = horizon is not None and key[1] < horizon.timestamp() * 1000
        gaps[key], expired[key] = [], []
        for first, last, above in gaps_between(heapq.merge(sound, rows)):
            gaps[key].append((first, last))
            if horizon is not None and (above < horizon or (first == 1 and began)):
                expired[key].append((first, last))

    with connection.cursor("rows") as cursor:
        cursor.itersize = 10_000
        rows = cursor.execute(_SQL["rows_of_pieces"], {**asked, **arrays}) if broken else iter(())
        for key, group in groupby(rows, key=lambda row: (row[0], row[1])):
            look(key, ((row[2], row[3], row[4]) for row in group))
    for key in suspects.keys() - gaps.keys():
        look(key, ())
    return gaps, expired


def _is_sound(pieces: Sequence[_Piece]) -> bool:
    """Whether each piece is sound, and one begins where the other ends, from 0 on."""
    end = 0
    for piece in pieces:
        if not piece.sound or piece.low != end:
            return False
        end = piece.high
    return True


def _foreign(
    dead_letters: dict[EpochKey, list[Range]],
    pieces: _Pieces,
    owners: Mapping[str, str],
    admitted: Admitted | None,
) -> dict[EpochKey, int]:
    """How many dead letters name a seq that was never admitted; those are removed from dead_letters."""
    beyond = [
        key
        for key, mine in dead_letters.items()
        if max(last for _, last in mine) > _highest(pieces.get(key, ()))
    ]
    if admitted is None or not beyond:
        return {}
    foreign: dict[EpochKey, int] = {}
    for key, known in zip(beyond, admitted(beyond, owners), strict=True):
        if known is None:
            continue
        highest = max(known, _highest(pieces.get(key, ())))
        kept = [each for each in dead_letters[key] if each[1] <= highest]
        if len(kept) < len(dead_letters[key]):
            foreign[key] = len(dead_letters[key]) - len(kept)
            dead_letters[key] = kept
    return foreign


def _highest(pieces: Sequence[_Piece]) -> int:
    return max((piece.high for piece in pieces), default=0)


def _totals(
    pieces: Sequence[_Piece],
    gaps: Sequence[Range],
    dead_letters: Sequence[Range],
    expired: Sequence[Range],
    foreign: int,
) -> EpochTotals:
    rows, merged = sum(piece.rows for piece in pieces), sum(piece.merged for piece in pieces)
    highest = _highest(pieces)
    duplicates = rows + merged - (highest - size(gaps))
    top = max([highest, *(last for _, last in dead_letters)])
    open_end = [(highest + 1, top)] if top > highest else []
    left, dead, filled = subtract([*gaps, *open_end], dead_letters)
    gone = sum(piece.gone for piece in pieces)
    return EpochTotals(
        rows, dead, merged + filled - dead, size(left), duplicates, left, top, expired, highest, foreign, gone
    )


def _stale(
    pieces: _Pieces, states: Mapping[str, tuple[State, bool, bool]], horizon: datetime | None
) -> tuple[str, ...]:
    """Traders whose state is not the newest of their history, or that have only one of the two.

    What a state was made from may be before the horizon, and retained no longer, or have expired.
    """
    newest: dict[str, tuple[int, int, bool]] = {}
    for (trader_id, epoch), parts in pieces.items():
        last = max(parts, key=lambda piece: piece.high)
        found = (epoch, last.high, last.number == _SEALED)
        newest[trader_id] = max(found, newest.get(trader_id, _NO_ROW))
    stale = []
    for trader_id in newest.keys() | states.keys():
        state, there, same = states.get(trader_id, (None, False, False))
        if state is None:
            stale.append(trader_id)
            continue
        *key, sealed = newest.get(trader_id, _NO_ROW)
        stored, shown = tuple(key), (state.epoch, state.seq)
        old = horizon is not None and state.recorded_at < horizon
        # What is sealed is not read, so the newest that is known may itself be gone.
        gone = not there and (
            (old and shown > stored) or (shown == stored and (state.expired or (old and sealed)))
        )
        if not (gone or (same and there and stored == shown)):
            stale.append(trader_id)
    return tuple(sorted(stale))
