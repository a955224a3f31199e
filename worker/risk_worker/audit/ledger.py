"""The database's half of the books: what stands in Postgres, counted by the database itself.

A life is (trader_id, epoch). Within one, seq runs 1, 2, 3 ... without holes; a stored row stands for its own
seq and for the `merged` ones just before it, a dead letter likewise. So the books show by themselves whether
something is missing or there twice, even where nobody knows any more how much was accepted.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import msgspec
import psycopg

from risk_producer.contract.wire import identity_of
from risk_worker.database.reader import as_of_one_moment, connected

Life = tuple[str, int]
"""(trader_id, epoch)"""

Range = tuple[int, int]
"""(first, last), both included: seq numbers"""

# One pass over history, without sorting it. A row covers the seq numbers (seq - merged - 1, seq]. Seen as a
# step upwards from seq - merged - 1 to seq, the rows of a sound piece are one staircase from its lowest
# beginning to its highest seq: each end but the highest is another's beginning. So the hashes of all ends
# less those of all beginnings make hash(highest) - hash(lowest); a hole or an overlap, or many of both, leave
# hashes that do not cancel out. A life is cut into pieces of so many seq numbers, so that where it is not
# sound, few rows have to be sorted.
_PIECE_BITS: Final = 14
_PIECES: Final = f"""
    SELECT trader_id, epoch, seq >> {_PIECE_BITS}, count(*), sum(merged), min(seq - merged - 1), max(seq),
           min(recorded_at),
           sum(hashint8extended(seq, 0)) - sum(hashint8extended(seq - merged - 1, 0))
           = hashint8extended(max(seq), 0)::numeric - hashint8extended(min(seq - merged - 1), 0)
    FROM risk_state_history
    WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
    GROUP BY 1, 2, 3
"""  # noqa: S608  # a constant alone

# The planner does not know how much is in an array, and a scan for each of its elements would be quadratic.
_NO_LOOPS: Final = "SET LOCAL enable_nestloop = off"

# The rows of pieces that are not sound, in the order of their beginnings.
_ROWS: Final = f"""
    SELECT trader_id, epoch, seq - merged - 1, seq, recorded_at
    FROM risk_state_history
    JOIN unnest(%(traders)s::text[], %(epochs)s::bigint[], %(pieces)s::bigint[])
        AS wanted (trader_id, epoch, piece) USING (trader_id, epoch)
    WHERE seq >> {_PIECE_BITS} = piece AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
    ORDER BY trader_id, epoch, seq - merged
"""  # noqa: S608  # a constant alone

# Whether any of what was missing is there by now.
_TURNED_UP: Final = """
    WITH missing AS (
        SELECT * FROM unnest(
            %(traders)s::text[], %(epochs)s::bigint[], %(firsts)s::bigint[], %(lasts)s::bigint[]
        ) AS missing (trader_id, epoch, first, last)
    )
    SELECT trader_id, epoch, seq - merged, seq
    FROM risk_state_history JOIN missing USING (trader_id, epoch)
    WHERE seq >= first AND seq - merged <= last AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
    UNION ALL
    SELECT trader_id, epoch, seq, seq
    FROM risk_dead_letter JOIN missing USING (trader_id, epoch)
    WHERE seq BETWEEN first AND last
"""

_ENCODINGS: Final = {"SQL_ASCII": "utf-8"} | {f"WIN{n}": f"cp{n}" for n in (866, 874, *range(1250, 1259))}
"""Postgres' names, where Python does not know them, too. SQL_ASCII takes any bytes."""

# No producer sends as much as 64 kB; of a payload that is larger nothing is read.
_LETTERS: Final = """
    SELECT trader_id, epoch, seq, CASE WHEN octet_length(payload) <= 65536 THEN payload ELSE '' END
    FROM risk_dead_letter
    WHERE epoch IS NOT NULL AND seq IS NOT NULL
      AND (%(trader)s::text IS NULL OR trader_id IS NULL OR trader_id = %(trader)s)
"""
_UNIDENTIFIED: Final = """
    SELECT count(*) FROM risk_dead_letter
    WHERE (epoch IS NULL OR seq IS NULL) AND %(trader)s::text IS NULL
"""

# Each state beside the row of history that it claims to be: one look at the key each.
_STATES: Final = """
    SELECT trader_id, epoch, seq, recorded_at, history.stored_at IS NOT NULL,
           (state.daily_pnl, state.drawdown_pct, state.current_equity, state.peak_equity,
            state.trading_paused, state.paused_until, state.last_reset_time, state.trace_id, state.reason)
           IS NOT DISTINCT FROM
               (history.daily_pnl, history.drawdown_pct, history.current_equity, history.peak_equity,
                history.trading_paused, history.paused_until, history.last_reset_time, history.trace_id,
                history.reason)
    FROM risk_state AS state
    LEFT JOIN risk_state_history AS history USING (trader_id, recorded_at, epoch, seq)
    WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
"""

# TimescaleDB: what was recorded before the oldest chunk is no longer retained; without one, see the policy.
_HAS_TIMESCALEDB: Final = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"
_HORIZON: Final = """
    SELECT coalesce(
        (
            SELECT min(range_start) FROM timescaledb_information.chunks
            WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass
                  = 'risk_state_history'::regclass
        ), (
            SELECT now() - max((config->>'drop_after')::interval) FROM timescaledb_information.jobs
            WHERE proc_name = 'policy_retention'
              AND format('%I.%I', hypertable_schema, hypertable_name)::regclass
                  = 'risk_state_history'::regclass
        )
    )
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one life. All are numbers of snapshots."""

    stored: int
    dead: int
    conflated: int
    missing: int
    repeated: int
    holes: Sequence[Range] = field(default=(), compare=False)
    """Where the missing ones are."""
    highest: int = field(default=0, compare=False)
    """The highest seq that the database knows of."""
    expired: Sequence[Range] = field(default=(), compare=False)
    """Gaps between or below its rows that lie before the horizon; dead letters may be in them."""
    highest_row: int = field(default=0, compare=False)
    """The highest seq of its rows in history."""
    foreign: int = 0
    """Dead letters in its name that no producer put into the stream."""

    @property
    def settled(self) -> int:
        """What the database knows of; without a fault it is what was accepted."""
        return self.stored + self.dead + self.conflated


@dataclass(frozen=True, slots=True)
class State:
    """The identity of the snapshot in a row of risk_state."""

    epoch: int
    seq: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Books:
    """The state of the whole database at one moment."""

    lives: Mapping[Life, Account]
    rows: int = 0
    stale: tuple[str, ...] = ()
    """Traders whose risk_state is not the newest of their history."""
    unidentified: int = 0
    """Dead letters that do not say whose they are."""
    dead_but_stored: int = 0
    """Dead letters of what is settled otherwise: a retry stored it and did not come to delete the letter."""
    horizon: datetime | None = None
    """What was recorded before it need not be there any more; None: everything has to be."""
    states: Mapping[str, State] = field(default_factory=dict)

    @property
    def foreign(self) -> int:
        """Dead letters of entries that no producer put into the stream."""
        return self.unidentified + sum(account.foreign for account in self.lives.values())

    def problems(self, accepted: Mapping[Life, int] | None = None) -> list[str]:
        """What does not balance, one sentence each; empty: nothing lost, nothing twice, no state behind.

        accepted: for lives that are over and drained, how many snapshots were accepted.
        """
        found = []
        for (trader_id, epoch), account in self.lives.items():
            if account.missing:
                found.append(f"{trader_id}, epoch {epoch}: {account.missing} missing between 1 and the last")
            if account.repeated:
                found.append(f"{trader_id}, epoch {epoch}: {account.repeated} there twice")
        found += [f"{trader_id}: risk_state is not the newest of history" for trader_id in self.stale]
        for (trader_id, epoch), count in (accepted or {}).items():
            settled = self.account((trader_id, epoch)).settled
            if settled != count:
                found.append(f"{trader_id}, epoch {epoch}: {count} accepted, but {settled} settled")
        return found

    def account(self, life: Life) -> Account:
        """Of one life; all zero where the database knows nothing of it."""
        return self.lives.get(life, Account(0, 0, 0, 0, 0))


class _Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of a life: the rows whose seq have the same upper bits."""

    number: int
    rows: int
    merged: int
    low: int
    high: int
    recorded_at: datetime
    sound: bool


_Segment = tuple[int, int, datetime]
"""(low, high, recorded_at): it covers the seq numbers (low, high]"""

_Pieces = Mapping[Life, Sequence[_Piece]]

Admitted = Callable[[Sequence[Life]], Sequence[int | None]]
"""The last seq that Redis admitted of each life; None: that cannot be read."""


def read(
    url: str, trader: str | None = None, *, admitted: Admitted | None = None, horizon: datetime | None = None
) -> Books:
    """Read the books of the database at a libpq URL, as of one moment; of one trader, or of all.

    admitted: tells foreign dead letters from a producer's; None: all that have an identity are a producer's.
    horizon: what was recorded before it need not be there; None: as TimescaleDB's oldest chunk says.
    Raises DatabaseTrouble, ConfigurationError, MigrationError.
    """
    with connected(url) as connection, as_of_one_moment(connection):
        # No trader has the name "": of one that the encoding cannot hold there are dead letters alone.
        asked = {"trader": trader if trader is None or _can_hold(connection, trader) else ""}
        pieces = _read_pieces(connection, asked)
        letters, unreadable = _read_letters(connection, asked, trader)
        [(unidentified,)] = connection.execute(_UNIDENTIFIED, asked)
        if horizon is None and connection.execute(_HAS_TIMESCALEDB).fetchone() == (True,):
            [(horizon,)] = connection.execute(_HORIZON)
        states = {
            trader_id: (State(epoch, seq, recorded_at), there, same)
            for trader_id, epoch, seq, recorded_at, there, same in connection.execute(_STATES, asked)
        }
        connection.execute(_NO_LOOPS)
        holes, expired = _read_gaps(connection, asked, pieces, horizon)

    foreign = _foreign_letters(letters, pieces, admitted)
    lives: dict[Life, Account] = {}
    dead_but_stored = 0
    for life in sorted(pieces.keys() | letters.keys()):
        mine = letters.get(life, [])
        account = _account(
            pieces.get(life, ()), holes.get(life, []), mine, expired.get(life, []), foreign.get(life, 0)
        )
        lives[life] = account
        dead_but_stored += len(mine) - account.dead
    return Books(
        lives,
        sum(account.stored for account in lives.values()),
        _stale(pieces, states, horizon),
        int(unidentified) + unreadable,
        dead_but_stored,
        horizon,
        {trader_id: state for trader_id, (state, _, _) in states.items()},
    )


def turned_up(url: str, missing: Mapping[Life, Sequence[Range]], trader: str | None = None) -> bool:
    """Whether the database has by now any of the seq numbers that were missing. Raises as read() does."""
    spans = {life: (holes[0][0], holes[-1][1]) for life, holes in missing.items() if holes}
    arrays = {
        "trader": trader,
        "traders": [trader_id for trader_id, _ in spans],
        "epochs": [epoch for _, epoch in spans],
        "firsts": [first for first, _ in spans.values()],
        "lasts": [last for _, last in spans.values()],
    }
    found: dict[Life, list[Range]] = defaultdict(list)
    with connected(url) as connection, as_of_one_moment(connection):
        if not all(_can_hold(connection, trader_id) for trader_id, _ in spans):
            return True  # it cannot be asked for them by name
        connection.execute(_NO_LOOPS)
        with connection.cursor("found") as cursor:
            cursor.itersize = 10_000
            for trader_id, epoch, first, last in cursor.execute(_TURNED_UP, arrays):
                found[trader_id, epoch].append((first, last))
    return any(touches(missing[life], pieces) for life, pieces in found.items())


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


def touches(holes: Iterable[Range], pieces: Iterable[Range]) -> bool:
    """Whether any number of the pieces is in a hole. holes: disjoint, in order."""
    rest = iter(holes)
    hole = next(rest, None)
    for first, last in sorted(pieces):
        while hole is not None and hole[1] < first:
            hole = next(rest, None)
        if hole is None:
            return False
        if hole[0] <= last:
            return True
    return False


def split(holes: Iterable[Range], by: Iterable[Range]) -> tuple[list[Range], list[Range]]:
    """(what of the holes is not in `by`, what is). Both: disjoint, in order."""
    outside: list[Range] = []
    inside: list[Range] = []
    rest = iter(by)
    piece = next(rest, None)
    for first, last in holes:
        while first <= last:
            while piece is not None and piece[1] < first:
                piece = next(rest, None)
            if piece is None or last < piece[0]:
                outside.append((first, last))
                break
            if first < piece[0]:
                outside.append((first, piece[0] - 1))
            inside.append((max(first, piece[0]), min(last, piece[1])))
            first = inside[-1][1] + 1
    return outside, inside


def fill(holes: Iterable[Range], pieces: Iterable[Range]) -> tuple[list[Range], int, int]:
    """Put pieces into holes. holes: disjoint, in order; a piece goes in where its last number is missing.

    Returns (the holes that are left, how many pieces went in, how many numbers they fill).
    """
    left: list[Range] = []
    used = filled = 0
    rest = iter(holes)
    hole = next(rest, None)
    for first, last in sorted(pieces, key=lambda piece: piece[1]):
        while hole is not None and hole[1] < last:
            left.append(hole)
            hole = next(rest, None)
        if hole is None:
            break
        if last < hole[0]:
            continue  # not missing
        first = max(first, hole[0])
        used += 1
        filled += last - first + 1
        if first > hole[0]:
            left.append((hole[0], first - 1))
        hole = (last + 1, hole[1]) if last < hole[1] else next(rest, None)
    if hole is not None:
        left += [hole, *rest]
    return left, used, filled


def size(holes: Iterable[Range]) -> int:
    """How many numbers they span."""
    return sum(last - first + 1 for first, last in holes)


class _Wire(msgspec.Struct):
    """What is wanted of a dead letter's payload."""

    merged: int = 0


def _read_pieces(connection: psycopg.Connection, asked: Mapping[str, Any]) -> dict[Life, list[_Piece]]:
    """The pieces of each life, in order."""
    pieces: dict[Life, list[_Piece]] = defaultdict(list)
    for trader_id, epoch, number, rows, merged, low, high, recorded_at, sound in connection.execute(
        _PIECES, asked
    ):
        pieces[trader_id, epoch].append(_Piece(number, rows, int(merged), low, high, recorded_at, sound))
    for each in pieces.values():
        if len(each) > 1:
            each.sort(key=lambda piece: piece.number)
    return pieces


def _read_letters(
    connection: psycopg.Connection, asked: Mapping[str, Any], trader: str | None
) -> tuple[dict[Life, list[Range]], int]:
    """The seq numbers that each dead letter stands for, and how many do not say whose they are.

    A trader_id that the database's encoding cannot hold is in the payload alone.
    """
    letters: dict[Life, list[Range]] = defaultdict(list)
    unidentified = 0
    decoder = msgspec.json.Decoder(_Wire)
    with connection.cursor("letters") as cursor:
        cursor.itersize = 500
        for trader_id, epoch, seq, payload in cursor.execute(_LETTERS, asked):
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
            letters[trader_id, epoch].append((seq - merged, seq))
    return letters, unidentified


def _read_gaps(
    connection: psycopg.Connection, asked: Mapping[str, Any], pieces: _Pieces, horizon: datetime | None
) -> tuple[dict[Life, list[Range]], dict[Life, list[Range]]]:
    """Of lives that are not sound: (what no row below the highest stands for, what of that is expired)."""
    suspects = {life: parts for life, parts in pieces.items() if not _is_sound(parts)}
    if not suspects:
        return {}, {}
    broken = [(life, part.number) for life, parts in suspects.items() for part in parts if not part.sound]
    arrays = {
        "traders": [life[0] for life, _ in broken],
        "epochs": [life[1] for life, _ in broken],
        "pieces": [number for _, number in broken],
    }
    holes: dict[Life, list[Range]] = {}
    expired: dict[Life, list[Range]] = {}

    def look(life: Life, rows: Iterable[_Segment]) -> None:
        sound = sorted((part.low, part.high, part.recorded_at) for part in suspects[life] if part.sound)
        began = horizon is not None and life[1] < horizon.timestamp() * 1000
        holes[life], expired[life] = [], []
        for first, last, above in _gaps(heapq.merge(sound, rows)):
            holes[life].append((first, last))
            if horizon is not None and (above < horizon or (first == 1 and began)):
                expired[life].append((first, last))

    with connection.cursor("rows") as cursor:
        cursor.itersize = 10_000
        rows = cursor.execute(_ROWS, {**asked, **arrays}) if broken else iter(())
        for life, group in groupby(rows, key=lambda row: (row[0], row[1])):
            look(life, ((row[2], row[3], row[4]) for row in group))
    for life in suspects.keys() - holes.keys():
        look(life, ())
    return holes, expired


def _is_sound(pieces: Sequence[_Piece]) -> bool:
    """Whether each piece is, and one begins where the other ends, from 0 on."""
    end = 0
    for piece in pieces:
        if not piece.sound or piece.low != end:
            return False
        end = piece.high
    return True


def _gaps(segments: Iterable[_Segment]) -> Iterator[tuple[int, int, datetime]]:
    """(first, last, recorded_at of what is above) of what no segment covers. segments: in order."""
    covered = 0
    for low, high, recorded_at in segments:
        if low > covered:
            yield covered + 1, low, recorded_at
        covered = max(covered, high)


def _foreign_letters(
    letters: dict[Life, list[Range]], pieces: _Pieces, admitted: Admitted | None
) -> dict[Life, int]:
    """How many dead letters name a seq that was never admitted; those are taken out of letters."""
    beyond = [
        life
        for life, mine in letters.items()
        if max(last for _, last in mine) > _highest(pieces.get(life, ()))
    ]
    if admitted is None or not beyond:
        return {}
    foreign: dict[Life, int] = {}
    for life, known in zip(beyond, admitted(beyond), strict=True):
        if known is None:
            continue
        highest = max(known, _highest(pieces.get(life, ())))
        kept = [each for each in letters[life] if each[1] <= highest]
        if len(kept) < len(letters[life]):
            foreign[life] = len(letters[life]) - len(kept)
            letters[life] = kept
    return foreign


def _highest(pieces: Sequence[_Piece]) -> int:
    return pieces[-1].high if pieces else 0


def _account(
    pieces: Sequence[_Piece],
    holes: Sequence[Range],
    letters: Sequence[Range],
    expired: Sequence[Range],
    foreign: int,
) -> Account:
    rows, merged = sum(piece.rows for piece in pieces), sum(piece.merged for piece in pieces)
    highest = _highest(pieces)
    repeated = rows + merged - (highest - size(holes))
    top = max([highest, *(last for _, last in letters)])
    open_end = [(highest + 1, top)] if top > highest else []
    left, dead, filled = fill([*holes, *open_end], letters)
    return Account(
        rows, dead, merged + filled - dead, size(left), repeated, left, top, expired, highest, foreign
    )


def _stale(
    pieces: _Pieces, states: Mapping[str, tuple[State, bool, bool]], horizon: datetime | None
) -> tuple[str, ...]:
    """Traders whose state is not the newest of their history, or that have only one of the two.

    What a state was made from may be before the horizon, and retained no longer.
    """
    newest: dict[str, tuple[int, int]] = {}
    for (trader_id, epoch), parts in pieces.items():
        newest[trader_id] = max((epoch, _highest(parts)), newest.get(trader_id, (0, 0)))
    stale = []
    for trader_id in newest.keys() | states.keys():
        state, there, same = states.get(trader_id, (None, False, False))
        if state is None:
            stale.append(trader_id)
            continue
        stored, shown = newest.get(trader_id, (0, 0)), (state.epoch, state.seq)
        gone = not there and horizon is not None and state.recorded_at < horizon and shown > stored
        if not (gone or (same and there and stored == shown)):
            stale.append(trader_id)
    return tuple(sorted(stale))
