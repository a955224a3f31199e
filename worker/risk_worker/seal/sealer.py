"""Seals history: closes a span of time, then adds a run with its leaves to the chain.

A run ends with a window of the clock (an hour, say), or after ROWS_MAX rows. What it takes in is final: once
a time is closed, no transaction that began before it can insert (risk_refuse_closed() in the migrations). Who
inserts never waits for a sealer: the sealer waits for those that have inserted.

Where many windows are over, as after an outage, several runs are made in one transaction: more and more, as
long as they have few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Final

import psycopg

from risk_producer.errors import ConfigurationError, RiskError
from risk_worker.database import connection as database
from risk_worker.database.owner import ConnectionOwner
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.database.sqlstate import Disposition, classify_error
from risk_worker.seal.chain import (
    ROWS_MAX,
    RUNS_MAX,
    SQL,
    VERSION,
    ChainBusy,
    Run,
    encoding,
    end_of_chain,
    leaves_of_runs,
    lock,
    run_of,
    runs,
    show_time,
)

WINDOWS: Final = {
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
}
"""Value of RISK_SEAL_EVERY -> how long a window is."""
DELAY: Final = timedelta(minutes=1)
"""How long ago a window must have ended; transactions that insert for longer are tried again."""
CLOCKS_APART_MAX: Final = timedelta(minutes=1)
WRITERS_S: Final = 2.0
"""How long a sealer waits for the transactions that are inserting; then it tries again later."""
WRITERS_EVERY_S: Final = 0.02

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ClocksDiffer(RiskError):
    """The clocks of this machine and of the database differ, so nothing is closed; the message has both."""


class WritersBusy(DatabaseUnavailable):
    """A transaction that has inserted goes on for long, so that its time cannot be sealed yet."""


@dataclass(frozen=True, slots=True)
class Reopened:
    """What Sealer.reopen() did."""

    closed_until: datetime | None
    """None: history is open."""
    entry: Run | None
    """The one that undoes the runs of a clock that ran ahead. None: there were none."""


class Sealer(ConnectionOwner):
    """Adds runs to the chain. Several may work at the same time: one of them adds it."""

    def __init__(
        self, url: str, window: timedelta, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """window: how long the spans are, a part of a day."""
        super().__init__(url, database.SEAL)
        self._window = window
        self._clock = clock

    def seal(self) -> Iterator[Run]:
        """Seal what is over by both clocks, run by run; nothing, where another sealer is at it.

        Raises DatabaseUnavailable, ClocksDiffer, ConfigurationError.
        """
        with _explained():
            connection = self._connected()
            limit = _window_end(self._now(connection) - DELAY, self._window) - self._window
            _, sealed_until, _ = end_of_chain(connection)
            if sealed_until is not None and _window_end(sealed_until, self._window) > limit:
                return
            try:
                self._close(connection, limit)
                most = 1
                while made := self._add_runs(connection, limit, most):
                    yield from made
                    few = sum(run.rows for run in made) * 2 <= ROWS_MAX
                    most = min(len(made) * 2, RUNS_MAX) if few else len(made)
            except ChainBusy:
                return

    def reopen(self) -> Reopened:
        """Undo what a clock that ran ahead has closed and sealed.

        Runs that end later than now are undone by an entry of the chain: they stay, and their rows can be
        verified, and what is stored from now on is sealed in new ones. The closing is taken back to the
        end of the last run that counts.
        Raises DatabaseUnavailable, ClocksDiffer, ConfigurationError, and ChainBusy while a sealer is at work.
        """
        with _explained():
            connection = self._connected()
            now = self._now(connection)
            with connection.transaction():
                lock(connection)
                undone = connection.execute(SQL["undo_runs"], {"now": now, "version": VERSION}).fetchone()
                if undone is not None:
                    connection.execute(SQL["total_anew"], {"number": undone[0]})
                [(closed_until,)] = connection.execute(SQL["reopen"]).fetchall()
                return Reopened(closed_until, None if undone is None else run_of(connection, undone[0]))

    def _now(self, connection: database.Connection) -> datetime:
        """The earlier of the times that the two clocks show."""
        theirs: datetime
        [(theirs,)] = connection.execute(SQL["clock"]).fetchall()
        ours = self._clock()
        if abs(theirs - ours) > CLOCKS_APART_MAX:
            raise ClocksDiffer(
                f"the database's clock shows {show_time(theirs)} and this machine's {show_time(ours)}: a "
                "time that is closed too early could not be written to. Set the clocks"
            )
        return min(theirs, ours)

    def _close(self, connection: database.Connection, limit: datetime) -> None:
        """From now on no transaction that began before the limit can insert."""
        with connection.transaction():
            lock(connection)
            _, _, closed_until = end_of_chain(connection)
            if closed_until is not None and closed_until >= limit:
                return
            _wait_for_writers(connection)  # one that goes on for long would be refused its next insert
            try:
                connection.execute(SQL["close"], {"until": limit})
            except psycopg.errors.LockNotAvailable as error:
                raise WritersBusy(
                    "a transaction above READ COMMITTED is inserting into history, so the time cannot be "
                    "closed now; sealing is tried again"
                ) from error

    def _add_runs(self, connection: database.Connection, limit: datetime, most: int) -> list[Run]:
        """The next runs, so many at the most, in one transaction.

        None of them: everything before the limit is sealed, or history was reopened meanwhile.
        """
        with connection.transaction():
            lock(connection)
            last, since, closed_until = end_of_chain(connection)
            if closed_until is None:
                return []
            ends = self._ends(connection, since, min(limit, closed_until), most)
            if not ends:
                return []
            _wait_for_writers(connection)  # those that have seen an earlier mark
            first = 1 if last is None else last + 1
            of_runs = leaves_of_runs(connection, since, ends)
            words = {"version": VERSION, **encoding(connection)}
            spans = enumerate(zip([since, *ends], ends, strict=False), start=first)
            with connection.cursor() as cursor:
                with cursor.copy(SQL["add_leaves"]) as copy:
                    for number, leaves in enumerate(of_runs, start=first):
                        for leaf in leaves:
                            copy.write_row((number, *leaf.columns))
                cursor.execute(SQL["add_to_totals"], {"first": first})
                cursor.executemany(
                    SQL["add_run"],
                    [
                        {"number": number, "from": start, "until": end, **words}
                        for number, (start, end) in spans
                    ],
                )
            return list(runs(connection, first))

    def _ends(
        self, connection: database.Connection, since: datetime | None, limit: datetime, most: int
    ) -> list[datetime]:
        """Where the next runs end, so many at the most. None of them: the next is not over."""
        if since is not None:
            end = _window_end(since, self._window)
            if end > limit:
                return []
        else:
            [(first,)] = connection.execute(SQL["first_stored"], {"until": limit}).fetchall()
            end = limit if first is None else min(limit, _window_end(first, self._window))
        ends = [end]
        while len(ends) < most and ends[-1] + self._window <= limit:
            ends.append(ends[-1] + self._window)
        asked = {"from": since, "until": ends[-1], "rows": ROWS_MAX}
        found = connection.execute(SQL["row_beyond"], asked).fetchone()
        if found is None:
            return ends
        beyond: datetime = found[0]
        if ends[0] <= beyond:
            return [end for end in ends if end <= beyond]
        [(first,)] = connection.execute(SQL["first_in"], {"from": since, "until": end}).fetchall()
        # What one transaction stored has one time, and is not divided.
        return [beyond if beyond > first else first + timedelta(microseconds=1)]


def _wait_for_writers(connection: database.Connection) -> None:
    """Until each transaction is over that has inserted by now. Later ones wait for nothing meanwhile."""
    deadline = monotonic() + WRITERS_S
    writers = _writers(connection)
    while writers:
        if monotonic() > deadline:
            pids = ", ".join(f"with the pid {pid}" if pid else "that is prepared" for pid in writers.values())
            raise WritersBusy(
                f"a transaction {pids} has been inserting into history for long, so its time cannot be "
                "sealed now; sealing is tried again"
            )
        sleep(WRITERS_EVERY_S)
        now = _writers(connection)
        writers = {transaction: pid for transaction, pid in writers.items() if transaction in now}


def _writers(connection: database.Connection) -> dict[str, int | None]:
    """The transactions that have inserted, and the pid of each; None: it is a prepared one."""
    return dict(connection.execute(SQL["writers"]).fetchall())


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        found = classify_error(error)
        configuration = found.disposition is Disposition.CONFIGURATION
        raise (ConfigurationError if configuration else DatabaseUnavailable)(
            f"the database: {found}"
        ) from error


def _window_end(moment: datetime, window: timedelta) -> datetime:
    """The end of the window of the UTC clock that a moment lies in."""
    return moment - (moment - _EPOCH) % window + window
