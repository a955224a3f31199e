"""The worker's side of Postgres: one transaction for what was read, into history, state and dead letters.

The quick way is a binary COPY straight into history. It fails as a whole when a row is there already (a
batch is a replay) or cannot be stored. Then all go the careful way: each batch by COPY into a temp table and
from there into history, where ON CONFLICT DO NOTHING makes a replay a no-op; and in halves, down to the rows
that cannot be stored.

Two workers may store the same rows at once. Both ways take locks in one order: history by the names of the
streams and as the rows stand there, then the states of all batches by trader, then dead letters. So they wait
for one another in no circle, not even in one that Postgres cannot see, where a transaction that holds rows of
history waits for the COMMIT before it.

What came by another namespace than its trader's is found by the statement that locks the trader's row, so it
does not matter who else stores something at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from socket import SHUT_RDWR, socket
from threading import Lock
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg.errors import UniqueViolation

from risk_producer.contract.keys import namespace_of
from risk_producer.contract.statements import statements
from risk_producer.contract.wire import WireSnapshot
from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import mask
from risk_worker.database import connection as database
from risk_worker.database.columns import COLUMNS
from risk_worker.database.deployment import identity_of
from risk_worker.database.owner import ConnectionOwner
from risk_worker.database.sqlstate import Disposition, classify_error
from risk_worker.drain.batch import (
    Batch,
    DeadLetter,
    Incarnation,
    Outcome,
    Row,
    incarnations,
    of_another_namespace,
)
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable

log = logging.getLogger("riskstream.store")

_SQL: Final = statements(__package__, "store.sql")
_TYPES: Final = list(COLUMNS.values())
_NAMESPACE_CHECK: Final = "risk_state_namespace_check"
_NO_SQLSTATE: Final = "22000"
"""psycopg's own refusals have none: the general one of data that cannot be held."""
_PREPARED_AFTER: Final = 5
"""How often a statement runs before the server keeps its plan: to plan the one about states takes longer than
to run it."""
_TRIES: Final = 5
"""How often a transaction is begun anew, as a trader turned out to belong to another namespace."""


_MANY: Final = 500
"""Of so many traders COPY takes the newest snapshots to Postgres. Arrays save two round trips, but cost the
worker three times as much a trader."""


class _OtherNamespace(Exception):
    """Something came by another namespace than its trader's; nothing was stored."""


class _Begun(NamedTuple):
    """A transaction that has the rows of some batches."""

    connection: database.Connection
    batches: Sequence[Batch]
    transaction: contextlib.ExitStack


class PostgresStore(ConnectionOwner):
    """Stores batches over one connection of its own, made anew when it breaks. Only cut() is thread-safe.

    It is no pool's connection, because a pool hides why connecting fails behind a time-out, and what to do
    about it depends on that.
    """

    def __init__(self, url: str, identity: str | None = None, *, assigns_traders: bool = False) -> None:
        """identity: of the only database that may be stored into; None: whichever the URL leads to.

        assigns_traders: whether a trader that belongs to no namespace belongs to the one that reports it from
        then on; else all batches of a transaction came by the same one.
        """
        super().__init__(url, database.STORE)
        self._identity = identity
        self._assigns_traders = assigns_traders
        self._lock = Lock()  # held while the connection is closed, or cut by another thread
        self._begun: _Begun | None = None
        self._others_come = False
        """Whether rows of other namespaces' traders were found lately: then begin() asks for them first."""

    def save(self, batch: Batch) -> Outcome:
        """save_all() for one batch."""
        [outcome] = self.save_all([batch])
        return outcome

    def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Store the batches in one transaction; rows that cannot be stored become dead letters in it.

        Returns an outcome for each. Raises StoreUnavailable (try again) or StoreMisconfigured (the message
        says what to do).
        """
        with self._translated_errors():
            connection = self._connected()
            for _ in range(_TRIES):
                try:
                    if any(batch.refused for batch in batches):
                        return self._stored_carefully(connection, batches)
                    return self._stored_at_once(connection, batches)
                except _OtherNamespace:
                    self._refuse_others(connection, batches)
                except psycopg.Error as error:
                    if any(batch.refused for batch in batches):
                        raise
                    self._look_into(connection, batches, error)
        raise StoreUnavailable("which namespaces some traders belong to changes all the time")

    def _stored_at_once(self, connection: database.Connection, batches: Sequence[Batch]) -> list[Outcome]:
        """Raises _OtherNamespace or psycopg.Error."""
        with self._transaction(connection, replay=any(batch.dead for batch in batches)):
            _insert_history(connection, batches)
            return _insert_the_rest(connection, batches, assigns=self._assigns_traders)

    def _stored_carefully(self, connection: database.Connection, batches: Sequence[Batch]) -> list[Outcome]:
        """Raises _OtherNamespace or psycopg.Error."""
        with self._transaction(connection, replay=True):
            connection.execute(_SQL["check_constraints_at_once"])
            connection.execute(_SQL["empty_staging"])  # so that its rows stand as they are copied
            return _insert_carefully(connection, batches, assigns=self._assigns_traders)

    def _look_into(
        self, connection: database.Connection, batches: Sequence[Batch], error: psycopg.Error
    ) -> None:
        """Their rows were refused together: reject those of other namespaces' traders, or note it.

        Raises the error where it blames no row.
        """
        if classify_error(error).disposition is not Disposition.DATA:
            raise error
        if not self._refuse_others(connection, batches):
            for batch in batches:
                batch.refused = error.sqlstate or _NO_SQLSTATE

    def _refuse_others(self, connection: database.Connection, batches: Sequence[Batch]) -> bool:
        """Make dead letters of rows that came by another namespace than their trader's.

        Of those that report a trader for the first time in one transaction the first batch counts.
        Returns whether there are any.
        """
        found = False
        traders = sorted({each.trader_id for batch in batches for each in batch.incarnations})
        owners = _owners(connection, traders)
        for batch in batches:
            came_by = batch.namespace
            if self._assigns_traders:
                for each in batch.incarnations:
                    owners.setdefault(each.trader_id, came_by)
            others = {
                each.trader_id: of_another_namespace(each.trader_id, owner, came_by)
                for each in batch.incarnations
                if (owner := owners.get(each.trader_id, came_by)) != came_by
            }
            if others:
                batch.reject(
                    [
                        DeadLetter(row.entry_id, reason, row.payload, identity=row.identity)
                        for row in batch.rows
                        if (reason := others.get(row.snapshot.trader_id))
                    ]
                )
                found = True
        self._others_come |= found
        return found

    def begin(self, batches: Sequence[Batch]) -> PostgresStore | None:
        """The first half of save_all(): the rows are in history, all of them new; commit() does the rest.

        None: some are not new, or cannot be stored, and save_all() does not try them so again; or there is
        such a transaction already. While there is one, save_all() is not to be called. Raises as save_all().
        """
        if not self.is_free:
            return None
        with self._translated_errors():
            connection = self._connected()
            if self._others_come:
                self._others_come = False
                self._refuse_others(connection, batches)
            try:
                with contextlib.ExitStack() as stack:
                    replay = any(batch.dead for batch in batches)
                    stack.enter_context(self._transaction(connection, replay=replay))
                    _insert_history(connection, batches)
                    self._begun = _Begun(connection, batches, stack.pop_all())
            except psycopg.Error as error:
                self._look_into(connection, batches, error)
                return None
        return self

    @property
    def is_free(self) -> bool:
        """Whether there is no transaction of begin()."""
        return self._begun is None

    def commit(self) -> list[Outcome] | None:
        """The second half of save_all(), in any thread. None: nothing is stored, and save_all() has to."""
        assert self._begun is not None
        connection, batches, transaction = self._begun
        try:
            with self._translated_errors():
                try:
                    with transaction:
                        return _insert_the_rest(connection, batches, assigns=self._assigns_traders)
                except _OtherNamespace:
                    self._refuse_others(connection, batches)
                    return None
        finally:
            self._begun = None

    def abandon(self) -> None:
        """Roll back what begin() has done."""
        assert self._begun is not None
        try:
            with self._begun.transaction:
                raise psycopg.Rollback
        except (psycopg.Error, psycopg.Rollback):  # Rollback passes through where the connection is gone
            self.close()
        finally:
            self._begun = None

    def identity(self) -> str:
        """The identity of the database. Raises as save_all()."""
        with self._translated_errors():
            try:
                connection = self._connected()
                with connection.answered_within(database.ANSWER_S):
                    return identity_of(connection)
            except ConfigurationError as error:
                raise StoreMisconfigured(str(error)) from None

    def cut(self) -> None:
        """From another thread: end what a call waits for. It raises StoreUnavailable then."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                return
            with contextlib.suppress(OSError), socket(fileno=os.dup(self._connection.fileno())) as end:
                end.shutdown(SHUT_RDWR)

    @property
    def backend_pids(self) -> list[int]:
        """The server's process of the connection; none: there is none, or a pooler stands between."""
        connection = self._connection
        if connection is None or connection.closed or connection.pooled:
            return []
        return [connection.info.backend_pid]

    def close(self) -> None:
        """Give the connection back. The store may be used again: it connects anew."""
        with self._lock:
            super().close()

    def _connected(self) -> database.Connection:
        try:
            return super()._connected()
        except ConfigurationError as error:
            raise StoreMisconfigured(str(error)) from None

    def _opened(self, connection: database.Connection) -> None:
        if self._identity is not None and (found := identity_of(connection)) != self._identity:
            raise ConfigurationError(
                f"the database that POSTGRES_URL leads to is {found} now, and it was {self._identity}, which "
                "the streams in Redis are stored in. If it is to be this one from now on: riskstream rebind"
            )
        if not connection.pooled:
            connection.execute(_SQL["create_staging_of_session"])
            connection.prepare_threshold = _PREPARED_AFTER

    @contextlib.contextmanager
    def _transaction(self, connection: database.Connection, *, replay: bool) -> Iterator[None]:
        """A transaction whose end means that it is committed wherever it has to be.

        replay: whether an earlier transaction may have written what this one does.
        """
        connection.unreplicated = False
        with connection.transaction():
            if connection.pooled:
                connection.execute(_SQL["create_staging_of_transaction"])
            if replay:
                connection.execute(_SQL["write_something"])
            yield
        if connection.unreplicated:
            raise StoreUnavailable(
                "the batch is committed, but the wait for the synchronous standby was cancelled, so it may "
                "not be replicated; it is stored again until the standby has confirmed it"
            )

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn a database error into what the drain has to know; the connection is not trusted after one."""
        try:
            yield
        except psycopg.Error as error:
            self.close()
            found = classify_error(error)
            if found.disposition is Disposition.CONFIGURATION:
                raise StoreMisconfigured(str(found)) from error
            if found.disposition is Disposition.DATA:
                raise StoreUnavailable(
                    f"{found.message} (a data error that no row is to blame for)"
                ) from error
            raise StoreUnavailable(str(found)) from error
        except BaseException:
            # Ended in the middle (a second SIGTERM): what the transaction did is open; the next finds out.
            self.close()
            raise

    def __repr__(self) -> str:
        return f"PostgresStore({mask(self._url)!r})"


def _owners(connection: psycopg.Connection, traders: Sequence[str]) -> dict[str, str]:
    """Trader -> its namespace; without those that belong to none."""
    try:
        return dict(connection.execute(_SQL["namespaces_of_traders"], {"traders": traders}, prepare=False))
    except psycopg.Error as error:
        if classify_error(error).disposition is not Disposition.DATA:
            raise
    if len(traders) == 1:
        return {}  # the database cannot hold its name, so it has no such trader
    middle = len(traders) // 2
    return _owners(connection, traders[:middle]) | _owners(connection, traders[middle:])


def _insert_history(connection: psycopg.Connection, batches: Sequence[Batch]) -> None:
    """Insert rows that are all new and all sound; anything else is a data error for them all."""
    rows = [_values(row.snapshot) for batch in _in_order(batches) for row in batch.rows]
    if rows:
        with connection.cursor() as cursor:
            _copy(cursor, _SQL["copy_history"], rows)


def _insert_the_rest(
    connection: psycopg.Connection, batches: Sequence[Batch], *, assigns: bool
) -> list[Outcome]:
    """What is stored besides history, where that took all rows."""
    found = [(batch.namespace, batch.incarnations) for batch in batches if batch.rows]
    if found:
        with connection.cursor() as cursor:
            _save_state(cursor, found, assigns=assigns)
    for batch in _in_order(batches):
        _insert_dead_letters(connection, batch.stream, batch.dead)
    return [Outcome(batch.dead, duplicates=0) for batch in batches]


def _insert_carefully(
    connection: psycopg.Connection, batches: Sequence[Batch], *, assigns: bool
) -> list[Outcome]:
    """Insert what is new and sound; the rest are dead letters."""
    try:
        with connection.transaction():
            return _insert_new(connection, batches, assigns=assigns)
    except psycopg.Error as error:
        if classify_error(error).disposition is not Disposition.DATA:
            raise
    # risk_state refuses what history takes, by a constraint that an operator added.
    return _insert_new(connection, batches, assigns=assigns, each_state=True)


def _insert_new(
    connection: psycopg.Connection, batches: Sequence[Batch], *, assigns: bool, each_state: bool = False
) -> list[Outcome]:
    """each_state: states move on with each piece of history, so that a row is blamed for its state too."""
    outcomes: dict[int, Outcome] = {}
    found = []
    rejected = len(batches) == 1 and batches[0].refused not in ("", UniqueViolation.sqlstate)
    for batch in _in_order(batches):
        insert = partial(
            _insert, connection, came_by=batch.namespace if each_state else None, assigns=assigns
        )
        inserted, blamed = _insert_what_can_be(connection, batch.rows, insert, rejected=rejected)
        rows = batch.without({each.entry_id for each in blamed}) if blamed else batch.rows
        found.append((batch.namespace, incarnations(rows)))
        outcomes[id(batch)] = Outcome([*batch.dead, *blamed], duplicates=len(rows) - inserted)
    if not each_state:
        with connection.cursor() as cursor:
            _save_state(cursor, found, assigns=assigns)
    for batch in _in_order(batches):
        _insert_dead_letters(connection, batch.stream, outcomes[id(batch)].dead)
    return [outcomes[id(batch)] for batch in batches]


def _insert(
    connection: psycopg.Connection, rows: Sequence[Row], *, came_by: str | None, assigns: bool
) -> int:
    """Insert the rows that are new, and their states where came_by is given. Returns how many those were."""
    with connection.cursor() as cursor:
        _copy(cursor, _SQL["copy_staging"], [_values(row.snapshot) for row in rows])
        cursor.execute(_SQL["save_history"])
        inserted = cursor.rowcount
        cursor.execute(_SQL["empty_staging"])
        if came_by is not None:
            _save_state(cursor, [(came_by, incarnations(rows))], assigns=assigns)
    return inserted


def _in_order(batches: Sequence[Batch]) -> list[Batch]:
    """In the order in which every worker takes them."""
    return sorted(batches, key=lambda batch: batch.stream)


def _insert_what_can_be(
    connection: psycopg.Connection,
    rows: Sequence[Row],
    insert: Callable[[Sequence[Row]], int],
    *,
    rejected: bool = False,
) -> tuple[int, list[DeadLetter]]:
    """Insert the rows that are new; where that is rejected, each half alone, down to the rows at fault.

    Each try is a savepoint. rejected: whether all of them together were rejected already, so that they need
    not be tried again; a row is blamed only for a try of its own. With the one before, one bad row among n
    takes at most 2·ceil(log2 n) + 1 tries (two, where it is alone).
    Returns (inserted, dead letters).
    """
    if not rejected or len(rows) == 1:
        try:
            with connection.transaction():
                return insert(rows), []
        except psycopg.Error as error:
            if classify_error(error).disposition is not Disposition.DATA:
                raise
            if len(rows) == 1:
                [row] = rows
                dead_letter = DeadLetter(
                    row.entry_id, classify_error(error).message, row.payload, error.sqlstate, row.identity
                )
                return 0, [dead_letter]
    middle = len(rows) // 2
    left, left_dead = _insert_what_can_be(connection, rows[:middle], insert)
    right, right_dead = _insert_what_can_be(connection, rows[middle:], insert)
    return left + right, left_dead + right_dead


def _save_state(
    cursor: psycopg.Cursor, found: Iterable[tuple[str, Sequence[Incarnation]]], *, assigns: bool
) -> None:
    """Move risk_state on to the newest snapshot of each trader, where it is newer than what is there.

    found: by which namespace they came, and what. Raises _OtherNamespace where that is not the trader's.
    """
    newest: dict[str, tuple[str, Incarnation]] = {}
    came_by = ""
    for came_by, of in found:
        for each in of:
            by, known = newest.setdefault(each.trader_id, (came_by, each))
            if by != came_by:
                raise _OtherNamespace
            if (known.epoch, known.newest.seq) < (each.epoch, each.newest.seq):
                newest[each.trader_id] = (came_by, each)
    snapshots = [each.newest for _, each in newest.values()]
    namespaces = [(by or None) if assigns else None for by, _ in newest.values()]
    many = len(snapshots) >= _MANY
    parameters: dict[str, object] = {"came_by": came_by}
    if many:
        rows = ((*_values(each), namespace) for each, namespace in zip(snapshots, namespaces, strict=True))
        _copy(cursor, _SQL["copy_newest"], rows, [*_TYPES, "text"])
    else:
        parameters |= {**_columns(snapshots), "namespace": namespaces}
    try:
        cursor.execute(_SQL["newest_of_many" if many else "newest_of_few"] + _SQL["save_state"], parameters)
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name != _NAMESPACE_CHECK:
            raise
        raise _OtherNamespace from None
    if many:
        cursor.execute(_SQL["empty_staging"])


def _copy(
    cursor: psycopg.Cursor,
    statement: LiteralString,
    rows: Iterable[tuple[object, ...]],
    types: Sequence[str] = _TYPES,
) -> None:
    with cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _values(s: WireSnapshot) -> tuple[object, ...]:
    """In the order of COLUMNS; not by attrgetter, which takes twice the time."""
    return (
        s.trader_id,
        s.epoch,
        s.seq,
        s.recorded_at,
        s.daily_pnl,
        s.drawdown_pct,
        s.current_equity,
        s.peak_equity,
        s.trading_paused,
        s.paused_until,
        s.last_reset_time,
        s.trace_id,
        s.reason,
        s.merged,
    )


def _columns(snapshots: Sequence[WireSnapshot]) -> dict[str, list[object]]:
    """Column -> its values."""
    return {name: [getattr(each, name) for each in snapshots] for name in COLUMNS}


def _insert_dead_letters(connection: psycopg.Connection, stream: str, dead: Sequence[DeadLetter]) -> None:
    """Insert dead letters; one that is there already is left alone.

    Where the texts in one of them are at fault, each goes alone: with an escaped reason, and without its
    trader only where the database cannot hold that. The payload, which holds everything, is just bytes.
    """
    if not dead:
        return
    dead = sorted(dead, key=lambda each: each.entry_id)  # in the same order in every worker
    try:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(_SQL["save_dead_letter"], [_dead_letter_row(stream, each) for each in dead])
        return
    except psycopg.Error as error:
        if classify_error(error).disposition is not Disposition.DATA:
            raise
    for each in dead:
        try:
            with connection.transaction():
                connection.execute(
                    _SQL["save_dead_letter"], _dead_letter_row(stream, each, _escaped(each.reason))
                )
        except psycopg.Error as error:
            if classify_error(error).disposition is not Disposition.DATA:
                raise
            connection.execute(
                _SQL["save_dead_letter"],
                _dead_letter_row(stream, each, _escaped(each.reason), named=False),
            )


def _dead_letter_row(
    stream: str, dead: DeadLetter, reason: str | None = None, *, named: bool = True
) -> dict[str, object]:
    identity = dead.identity
    return {
        "stream": stream,
        "entry_id": dead.entry_id,
        "reason": reason or dead.reason,
        "sqlstate": dead.sqlstate,
        "trader_id": identity.trader_id if identity and named else None,
        "epoch": identity.epoch if identity else None,
        "seq": identity.seq if identity else None,
        "payload": dead.payload,
        "came_by": namespace_of(stream),
    }


def _escaped(text: str) -> str:
    """With nothing in it that a database could reject, whatever its encoding."""
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
