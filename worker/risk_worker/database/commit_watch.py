"""A COMMIT that does not come: what it waits for, and whether Postgres can be used at all from here.

The thread that stores may hang in a question to Postgres, so another one looks, over a connection of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg

from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_worker.database import connection as database
from risk_worker.database.sqlstate import classify_error
from risk_worker.database.store import PostgresStore
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.uncommitted import Uncommitted

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

log = logging.getLogger("riskstream.commit")

LOOK_EVERY_S: Final = 1.0
NAMED_AFTER_S: Final = 5.0
"""After so long without a COMMIT the log names what it waits for, and the metric shows it."""
LOST_AFTER_S: Final = 10.0
"""After so long without one, the database is lost if a new connection cannot be used either."""
_REPEAT_EVERY_S: Final = 60.0

_PURPOSE: Final = database.Purpose("riskstream-worker-watch", {"statement_timeout": "5s"})
_SQL: Final = statements(__package__, "commit_watch.sql")


class CommitWatch:
    """A thread that looks each LOOK_EVERY_S while it is entered, and ends the waiting where it is in vain."""

    def __init__(
        self,
        store: PostgresStore | PostgresStores,
        url: str,
        uncommitted: Uncommitted,
        *,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """on_lost: called when the database is lost, and the connection is cut then; None: neither."""
        self._store = store
        self._url = url
        self._uncommitted = uncommitted
        self._on_lost = on_lost
        self._named = ""
        self._named_at = 0.0
        self._over = threading.Event()

    def look(self) -> None:
        """See whether a COMMIT takes too long, and why."""
        waited_s = self._uncommitted.seconds()
        if waited_s < NAMED_AFTER_S:
            if self._named:
                log.warning("The worker does not wait for a COMMIT any more.")
            self._named = ""
            return
        try:
            reason, usable = self._reason(), True
        except (psycopg.Error, ConfigurationError) as error:
            why = classify_error(error).message if isinstance(error, psycopg.Error) else error
            reason, usable = f"Postgres cannot be used over a new connection either ({why})", False
        now = monotonic()
        if reason != self._named or now - self._named_at >= _REPEAT_EVERY_S:
            self._named, self._named_at = reason, now
            log.warning(
                "The worker has waited for a COMMIT for %.0f s: %s.", self._uncommitted.seconds(), reason
            )
        if not usable and self._on_lost is not None and self._uncommitted.seconds() >= LOST_AFTER_S:
            self._on_lost()
            self._store.cut()

    def _reason(self) -> str:
        """What the oldest transaction of the store waits for. Raises psycopg.Error or ConfigurationError."""
        with database.connect(self._url, _PURPOSE) as connection:
            row = connection.execute(_SQL["what_it_waits_for"], {"pids": self._store.backend_pids}).fetchone()
        assert row is not None
        standby, kind, event, holders = row
        if standby:
            raise psycopg.OperationalError("it is a standby, which nothing can be written to")
        if event == "SyncRep":
            return "Postgres waits for a synchronous standby to confirm it"
        if kind == "Lock":
            by = ", ".join(map(str, holders)) or "unknown"
            return f"Postgres waits for a lock ({event}) that process {by} holds"
        if event is not None:
            return f"Postgres is at it (wait event {kind}: {event})"
        return "Postgres answers over a new connection, and does not show what it waits for"

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:
                log.exception("The worker could not see what a COMMIT waits for")

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="commit watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # not waited for: it may be connecting for seconds
