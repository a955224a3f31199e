"""Seals history: closes a span of time, then adds a run with its leaves to the chain.

A run ends with a window of the clock (an hour, say), or after ROWS_MAX rows. What it takes in is final: once
a time is closed, no transaction that began before it can insert (risk_refuse_closed() in the migrations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from risk_producer.errors import ConfigurationError, RiskError
from risk_worker.database import connection as database
from risk_worker.database.owner import ConnectionOwner
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.database.sqlstate import Disposition, classify_error
from risk_worker.seal.chain import SQL, VERSION, Run, encoding, leaves_of_rows, runs, show_time

ROWS_MAX: Final = 1_000_000
"""Of a run, where they were stored at different times."""
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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ClocksDiffer(RiskError):
    """The clocks of this machine and of the database differ, so nothing is closed; the message has both."""


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
        """Seal what is over by both clocks, run by run.

        Raises DatabaseUnavailable, ClocksDiffer, ConfigurationError.
        """
        with _explained():
            connection = self._connected()
            limit = self._limit(connection)
            [(_, sealed_until, closed_until)] = connection.execute(SQL["end_of_chain"]).fetchall()
            if sealed_until is not None and _window_end(sealed_until, self._window) > limit:
                return
            if closed_until is None or closed_until < limit:
                with connection.transaction():
                    connection.execute(SQL["lock_writers"])
                    connection.execute(SQL["close"], {"until": limit})
            while (run := self._add_run(connection, limit)) is not None:
                yield run

    def reopen(self) -> datetime | None:
        """Take the closing back to the end of the last run, after a clock that ran ahead. Returns it."""
        with _explained():
            [(closed_until,)] = self._connected().execute(SQL["reopen"]).fetchall()
            found: datetime | None = closed_until
            return found

    def _limit(self, connection: database.Connection) -> datetime:
        """The end of the last window that is over by both clocks."""
        [(theirs,)] = connection.execute(SQL["clock"]).fetchall()
        ours = self._clock()
        if abs(theirs - ours) > CLOCKS_APART_MAX:
            raise ClocksDiffer(
                f"nothing is sealed, because the database's clock shows {show_time(theirs)} and this "
                f"machine's {show_time(ours)}: a time that is closed too early could not be written "
                "to. Set the clocks"
            )
        return _window_end(min(theirs, ours) - DELAY, self._window) - self._window

    def _add_run(self, connection: database.Connection, limit: datetime) -> Run | None:
        """None: everything before the limit is sealed, or another sealer is at it."""
        with connection.transaction():
            if connection.execute(SQL["lock_chain"]).fetchone() != (True,):
                return None
            [(last, since, closed_until)] = connection.execute(SQL["end_of_chain"]).fetchall()
            until = self._until(connection, since, min(limit, closed_until))
            if until is None:
                return None
            number = 1 if last is None else last + 1
            leaves = leaves_of_rows(connection, since, until)
            with connection.cursor() as cursor:
                cursor.executemany(SQL["add_leaf"], [(number, *astuple(each)) for each in leaves])
            connection.execute(SQL["add_to_totals"], {"number": number})
            words = {
                "number": number,
                "version": VERSION,
                "from": since,
                "until": until,
                **encoding(connection),
            }
            connection.execute(SQL["add_run"], words)
            [run] = runs(connection, number)
            return run

    def _until(
        self, connection: database.Connection, since: datetime | None, limit: datetime
    ) -> datetime | None:
        """Where the next run ends. None: it is not over."""
        if since is not None:
            until = _window_end(since, self._window)
            if until > limit:
                return None
        else:
            [(first,)] = connection.execute(SQL["first_stored"], {"until": limit}).fetchall()
            until = limit if first is None else min(limit, _window_end(first, self._window))
        span = {"from": since, "until": until}
        beyond = connection.execute(SQL["row_beyond"], {**span, "rows": ROWS_MAX}).fetchone()
        if beyond is None:
            return until
        [(first,)] = connection.execute(SQL["first_in"], span).fetchall()
        # What one transaction stored has one time, and is not divided.
        cut: datetime = beyond[0] if beyond[0] > first else first + timedelta(microseconds=1)
        return cut


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnavailable(
            "a transaction has been inserting into history for long, so the time cannot be closed now; "
            "sealing is tried again"
        ) from error
    except psycopg.Error as error:
        found = classify_error(error)
        configuration = found.disposition is Disposition.CONFIGURATION
        raise (ConfigurationError if configuration else DatabaseUnavailable)(
            f"the database: {found}"
        ) from error


def _window_end(moment: datetime, window: timedelta) -> datetime:
    """The end of the window of the UTC clock that a moment lies in."""
    return moment - (moment - _EPOCH) % window + window
