"""The database's half of the books: what stands in Postgres, counted by the database itself.

A life is (trader_id, epoch). Within one, seq runs 1, 2, 3 ... without holes; a stored row stands for its own
seq and for the `merged` ones just before it, a dead letter likewise. So the books show by themselves whether
something is missing or there twice, even where nobody knows any more how much was accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import psycopg

from risk_worker import database

Life = tuple[str, int]
"""(trader_id, epoch)"""

Range = tuple[int, int]
"""(first, last), both included: seq numbers"""

# One pass over history, without sorting it. A row covers the seq numbers (seq - merged - 1, seq]. Seen as a
# step upwards from seq - merged - 1 to seq, the rows of a sound life are one staircase from 0 to the highest
# seq: each end but the highest is another's beginning. So the hashes of all ends less those of all beginnings
# make hash(highest) - hash(0); a hole or an overlap, or many of both, leave hashes that do not cancel out.
_LIVES: Final = """
    SELECT trader_id, epoch, count(*), sum(merged), max(seq),
           sum(hashint8extended(seq, 0)) - sum(hashint8extended(seq - merged - 1, 0))
           = hashint8extended(max(seq), 0)::numeric - hashint8extended(0, 0)
    FROM risk_state_history
    WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
    GROUP BY trader_id, epoch
"""

# Only for lives that are not sound, in the order of their seq.
_HOLES: Final = """
    WITH suspect AS (
        SELECT * FROM unnest(%(traders)s::text[], %(epochs)s::bigint[]) AS suspect (trader_id, epoch)
    ), steps AS (
        SELECT trader_id, epoch,
               lag(seq, 1, 0::bigint) OVER up + 1 AS first,
               min(seq - merged) OVER (up ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) - 1 AS last
        FROM risk_state_history JOIN suspect USING (trader_id, epoch)
        WINDOW up AS (PARTITION BY trader_id, epoch ORDER BY seq)
    )
    SELECT trader_id, epoch, first, last FROM steps WHERE first <= last ORDER BY trader_id, epoch, first
"""
_IDENTITIES: Final = """
    SELECT coalesce(sum(identities), 0) FROM (
        SELECT count(DISTINCT seq) AS identities
        FROM risk_state_history
        JOIN unnest(%(traders)s::text[], %(epochs)s::bigint[]) AS suspect (trader_id, epoch)
        USING (trader_id, epoch)
        GROUP BY trader_id, epoch
    ) AS of_a_life
"""

_LETTERS: Final = """
    SELECT trader_id, epoch, seq, payload
    FROM risk_dead_letter
    WHERE trader_id IS NOT NULL AND epoch IS NOT NULL AND seq IS NOT NULL
      AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
"""
_DEAD_OF_NOBODY: Final = """
    SELECT count(*) FROM risk_dead_letter
    WHERE (trader_id IS NULL OR epoch IS NULL OR seq IS NULL) AND %(trader)s::text IS NULL
"""

# Each state beside the row of history that it claims to be: one look at the key each.
_STATES: Final = """
    SELECT trader_id, epoch, seq,
           history.stored_at IS NOT NULL
           AND (state.daily_pnl, state.drawdown_pct, state.current_equity, state.peak_equity,
                state.trading_paused, state.paused_until, state.last_reset_time, state.trace_id, state.reason)
           IS NOT DISTINCT FROM
               (history.daily_pnl, history.drawdown_pct, history.current_equity, history.peak_equity,
                history.trading_paused, history.paused_until, history.last_reset_time, history.trace_id,
                history.reason)
    FROM risk_state AS state
    LEFT JOIN risk_state_history AS history USING (trader_id, recorded_at, epoch, seq)
    WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
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

    @property
    def settled(self) -> int:
        """What the database knows of; without a fault it is what was accepted."""
        return self.stored + self.dead + self.conflated


@dataclass(frozen=True, slots=True)
class Books:
    """The state of the whole database at one moment."""

    lives: Mapping[Life, Account]
    rows: int
    identities: int
    """How many different (trader_id, epoch, seq) the rows have."""
    stale: tuple[str, ...]
    """Traders whose risk_state is not the newest of their history."""
    dead_of_nobody: int
    """Dead letters that do not say whose they are."""
    dead_but_stored: int = 0
    """Dead letters of what is settled otherwise: a retry stored it and did not come to delete the letter."""

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
        if self.rows != self.identities:
            found.append(f"{self.rows} rows have only {self.identities} identities")
        found += [f"{trader_id}: risk_state is not the newest of history" for trader_id in self.stale]
        for (trader_id, epoch), count in (accepted or {}).items():
            settled = self.account((trader_id, epoch)).settled
            if settled != count:
                found.append(f"{trader_id}, epoch {epoch}: {count} accepted, but {settled} settled")
        return found

    def account(self, life: Life) -> Account:
        """Of one life; all zero where the database knows nothing of it."""
        return self.lives.get(life, Account(0, 0, 0, 0, 0))


def read(url: str, trader: str | None = None) -> Books:
    """Read the books of the database at a libpq URL, as of one moment; of one trader, or of all.

    Raises psycopg.Error.
    """
    of_trader = {"trader": trader}
    with database.connect(url, database.COMMAND) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        history: dict[Life, tuple[int, int, int]] = {}
        suspects: list[Life] = []
        for trader_id, epoch, rows, merged, highest, sound in connection.execute(_LIVES, of_trader):
            history[trader_id, epoch] = (int(rows), int(merged), int(highest))
            if not sound:
                suspects.append((trader_id, epoch))
        letters = _read_letters(connection, of_trader)
        [(dead_of_nobody,)] = connection.execute(_DEAD_OF_NOBODY, of_trader)
        holes, identities = _look_closer(connection, suspects)
        stale = _stale(history, connection.execute(_STATES, of_trader))

    lives: dict[Life, Account] = {}
    dead_but_stored = 0
    for life in sorted(history.keys() | letters.keys()):
        account = _account(history.get(life, (0, 0, 0)), holes.get(life, []), letters.get(life, []))
        lives[life] = account
        dead_but_stored += len(letters.get(life, [])) - account.dead
    rows = sum(rows for rows, _, _ in history.values())
    sound_rows = rows - sum(history[life][0] for life in suspects)
    return Books(lives, rows, sound_rows + identities, stale, int(dead_of_nobody), dead_but_stored)


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


def _read_letters(connection: psycopg.Connection, of_trader: Mapping[str, Any]) -> dict[Life, list[Range]]:
    """The seq numbers that each dead letter stands for."""
    letters: dict[Life, list[Range]] = defaultdict(list)
    decoder = msgspec.json.Decoder(_Wire)
    with connection.cursor("letters") as cursor:
        cursor.itersize = 10  # a payload may have some megabytes
        for trader_id, epoch, seq, payload in cursor.execute(_LETTERS, of_trader):
            try:
                merged = decoder.decode(payload).merged
            except (msgspec.MsgspecError, UnicodeDecodeError):
                merged = 0
            letters[trader_id, epoch].append((seq - merged, seq))
    return letters


def _look_closer(
    connection: psycopg.Connection, suspects: Sequence[Life]
) -> tuple[dict[Life, list[Range]], int]:
    """(holes in the history of lives that are not sound, how many different identities those have)."""
    holes: dict[Life, list[Range]] = defaultdict(list)
    if not suspects:
        return holes, 0
    these = {"traders": [life[0] for life in suspects], "epochs": [life[1] for life in suspects]}
    for trader_id, epoch, first, last in connection.execute(_HOLES, these):
        holes[trader_id, epoch].append((first, last))
    [(identities,)] = connection.execute(_IDENTITIES, these)
    return holes, int(identities)


def _account(history: tuple[int, int, int], holes: Sequence[Range], letters: Sequence[Range]) -> Account:
    rows, merged, highest = history
    repeated = rows + merged - (highest - size(holes))
    top = max([highest, *(last for _, last in letters)])
    open_end = [(highest + 1, top)] if top > highest else []
    left, dead, filled = fill([*holes, *open_end], letters)
    return Account(rows, dead, merged + filled - dead, size(left), repeated, left, top)


def _stale(
    history: Mapping[Life, tuple[int, int, int]], states: Iterable[tuple[str, int, int, bool]]
) -> tuple[str, ...]:
    """Traders whose state is not the newest of their history, or that have only one of the two."""
    newest: dict[str, tuple[int, int]] = {}
    for (trader_id, epoch), (_, _, highest) in history.items():
        newest[trader_id] = max((epoch, highest), newest.get(trader_id, (0, 0)))
    shown = {trader_id: (epoch, seq) if same else None for trader_id, epoch, seq, same in states}
    traders = newest.keys() | shown.keys()
    return tuple(sorted(each for each in traders if newest.get(each, ()) != shown.get(each)))
