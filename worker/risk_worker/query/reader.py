"""Asks the questions. Each answer is read a page at a time, as of one moment, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, cached_property
from itertools import count
from typing import Any, Final, Generic, LiteralString, Self

import msgspec
import psycopg
from psycopg.rows import class_row

from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_worker.database import connection as database
from risk_worker.database.reader import DatabaseUnavailable, as_of_one_moment, connected
from risk_worker.query.certainty import Certainty
from risk_worker.query.question import KNOWN_LATER, Question, Row, name_of, row_of

PAGE: Final = 2_000
"""Rows that are held at once."""
_SQL: Final = statements(__package__, "reader.sql")


class RiskReader:
    """What is stored, for programs: `for row in RiskReader.from_env().ask(Pauses()): ...`.

    Thread-safe: each answer that is being read has a connection of its own, which only reads.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 60.0, waiting: Callable[[], int] | None = None
    ) -> None:
        """url: of Postgres, as libpq reads it. timeout_s: seconds that Postgres may work on a page.

        waiting: how many accepted snapshots wait in Redis, for the Certainty of answers; a RiskError says why
        that is not known. A reader itself asks Postgres alone.
        """
        self._url = url
        self._timeout_s = timeout_s
        self._waiting = waiting

    @classmethod
    def from_env(cls) -> Self:
        """With POSTGRES_URL (or DB_*) and RISK_QUERY_TIMEOUT_S. Raises ConfigurationError."""
        return cls.from_settings(Settings.load())

    @classmethod
    def from_settings(cls, settings: Settings, *, waiting: Callable[[], int] | None = None) -> Self:
        """With these settings. Raises ConfigurationError."""
        return cls(settings.require_database_url(), timeout_s=settings.query_timeout_s, waiting=waiting)

    def ask(self, question: Question[Row]) -> Answer[Row]:
        """The answer; Postgres is asked each time that it is read."""
        return Answer(self, question)

    def knows(self, trader: str) -> bool:
        """Whether anything of that trader is stored. Raises as reading an answer does."""
        with self._connected() as connection:
            return next(Moment(connection)._rows(_SQL["knows"], {"trader": trader}), None) is not None

    @contextmanager
    def at_one_moment(self) -> Iterator[Moment]:
        """Several questions, all answered as of the same moment. Raises as reading an answer does."""
        waits = self._waits()  # Redis first: what has left it by then is in Postgres
        with self._connected() as connection:
            yield Moment(connection, waits)

    @contextmanager
    def _connected(self) -> Iterator[database.Connection]:
        with (
            connected(self._url, database.reading(self._timeout_s)) as connection,
            as_of_one_moment(connection),
        ):
            try:
                yield connection
            except psycopg.errors.QueryCanceled as error:
                raise DatabaseUnavailable(
                    f"Postgres gave the question up, by default after RISK_QUERY_TIMEOUT_S, which is "
                    f"{self._timeout_s:g}: {error}"
                ) from error

    def _waits(self) -> int | str:
        """How many accepted snapshots wait in Redis, or why that is not known."""
        if self._waiting is None:
            return "What waits in Redis was not asked."
        try:
            return self._waiting()
        except RiskError as error:
            return f"What waits in Redis is not known: {error}."


class Moment:
    """What is stored as of one moment; it holds while RiskReader.at_one_moment() does. For one thread."""

    def __init__(self, connection: database.Connection, waits: int | str = "") -> None:
        """waits: how many accepted snapshots waited in Redis before, or why that is not known."""
        self._connection = connection
        self._waits = waits
        self._numbers = count()

    def now(self) -> datetime:
        """The moment, in UTC, by the clock of the database."""
        [(now,)] = self._connection.execute(_SQL["now"]).fetchall()
        found: datetime = now
        return found

    def ask(self, question: Question[Row]) -> Answer[Row]:
        """The answer; several may be read side by side."""
        return Answer(self, question)

    def certainty(self, question: Question[Any]) -> Certainty:
        """How sure the answer to a question is. Raises as reading an answer does."""
        found, waits = self._sealed, self._waits
        known_at = question.values.get("known_at")
        if known_at is not None:  # what waits will have been known later
            sealed = found.sealed_until
            return msgspec.structs.replace(found, final=sealed is not None and known_at < sealed)
        if isinstance(waits, int):
            return msgspec.structs.replace(found, waiting=waits)
        return msgspec.structs.replace(found, not_asked=(waits, *found.not_asked))

    @cached_property
    def _sealed(self) -> Certainty:
        """What Postgres knows of it, which is the same for all questions of the moment."""
        try:
            with self._connection.transaction():
                [(sealed_until, removed_before)] = self._connection.execute(_SQL["sealed"]).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            reason = "How far history is sealed is not known: this user may not read risk_seal_run."
            return Certainty(self.now(), final=False, not_asked=(reason,))
        return Certainty(self.now(), final=False, sealed_until=sealed_until, removed_before=removed_before)

    @contextmanager
    def at_one_moment(self) -> Iterator[Self]:
        """This one."""
        yield self

    def _rows(self, query: LiteralString, values: Mapping[str, Any], **more: Any) -> Iterator[Any]:
        with self._connection.cursor(f"question_{next(self._numbers)}", **more) as cursor:
            cursor.itersize = PAGE
            yield from cursor.execute(query, values)


class Answer(Generic[Row]):
    """The rows of an answer: iterate over it, as often as wanted. A few thousand rows are held at once."""

    def __init__(self, asked: RiskReader | Moment, question: Question[Row]) -> None:
        self._asked = asked
        self.question = question
        self.certainty: Certainty | None = None
        """How sure the rows are, known once the first is asked for; of the last time that they were read."""

    def __iter__(self) -> Iterator[Row]:
        """Raises DatabaseUnavailable, and ConfigurationError for what an operator has to correct first."""
        kind = type(self.question)
        with self._asked.at_one_moment() as moment:
            self.certainty = found = moment.certainty(self.question)
            values = {**self.question.values, **{name: getattr(found, name) for name in KNOWN_LATER}}
            yield from moment._rows(_query(name_of(kind)), values, row_factory=class_row(row_of(kind)))

    def to_frame(self, library: str = "pandas") -> Any:
        """All rows as a pandas.DataFrame, polars.DataFrame or pyarrow.Table: "pandas", "polars", "arrow".

        Times are in UTC. Raises as iterating does, and MissingLibrary.
        """
        from risk_worker.query import frames

        return frames.frame_of(self, row_of(type(self.question)), library)


@cache
def _query(name: str) -> LiteralString:
    return statements(__package__, f"{name}.sql")[name]
