"""Asks the questions. Each answer is read a page at a time, as of one moment, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import count
from typing import Any, Final, Generic, LiteralString, Protocol, Self

import psycopg
from psycopg.rows import class_row

from risk_producer.contract.statements import statements
from risk_producer.settings import Settings
from risk_worker.database import connection as database
from risk_worker.database.reader import DatabaseUnavailable, as_of_one_moment, connected
from risk_worker.query.question import Question, Row, name_of, row_of

PAGE: Final = 2_000
"""Rows that are held at once."""
_SQL: Final = statements(__package__, "reader.sql")


class RiskReader:
    """What is stored, for programs: `for row in RiskReader.from_env().ask(Pauses()): ...`.

    Thread-safe: each answer that is being read has a connection of its own, which only reads.
    """

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        """url: of Postgres, as libpq reads it. timeout_s: seconds that Postgres may work on a page."""
        self._url = url
        self._timeout_s = timeout_s

    @classmethod
    def from_env(cls) -> Self:
        """With POSTGRES_URL (or DB_*) and RISK_QUERY_TIMEOUT_S. Raises ConfigurationError."""
        return cls.from_settings(Settings.load())

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """With these settings. Raises ConfigurationError."""
        return cls(settings.require_database_url(), timeout_s=settings.query_timeout_s)

    def ask(self, question: Question[Row]) -> Answer[Row]:
        """The answer; Postgres is asked each time that it is read."""
        return Answer(self, question)

    def knows(self, trader: str) -> bool:
        """Whether anything of that trader is stored. Raises as reading an answer does."""
        return next(self._rows(_SQL["knows"], {"trader": trader}), None) is not None

    @contextmanager
    def at_one_moment(self) -> Iterator[Moment]:
        """Several questions, all answered as of the same moment. Raises as reading an answer does."""
        with (
            connected(self._url, database.reading(self._timeout_s)) as connection,
            as_of_one_moment(connection),
        ):
            try:
                yield Moment(connection)
            except psycopg.errors.QueryCanceled as error:
                raise DatabaseUnavailable(
                    f"Postgres gave the question up, by default after RISK_QUERY_TIMEOUT_S, which is "
                    f"{self._timeout_s:g}: {error}"
                ) from error

    def _rows(self, query: LiteralString, values: Mapping[str, Any], **more: Any) -> Iterator[Any]:
        with self.at_one_moment() as moment:
            yield from moment._rows(query, values, **more)


class Moment:
    """What is stored as of one moment; it holds while RiskReader.at_one_moment() does. For one thread."""

    def __init__(self, connection: database.Connection) -> None:
        self._connection = connection
        self._numbers = count()

    def now(self) -> datetime:
        """The moment, in UTC, by the clock of the database."""
        [(now,)] = self._connection.execute(_SQL["now"]).fetchall()
        found: datetime = now
        return found

    def ask(self, question: Question[Row]) -> Answer[Row]:
        """The answer; several may be read side by side."""
        return Answer(self, question)

    def _rows(self, query: LiteralString, values: Mapping[str, Any], **more: Any) -> Iterator[Any]:
        with self._connection.cursor(f"question_{next(self._numbers)}", **more) as cursor:
            cursor.itersize = PAGE
            yield from cursor.execute(query, values)


class _Asked(Protocol):
    """What an answer is read from."""

    def _rows(self, query: LiteralString, values: Mapping[str, Any], **more: Any) -> Iterator[Any]: ...


class Answer(Generic[Row]):
    """The rows of an answer: iterate over it, as often as wanted. A few thousand rows are held at once."""

    def __init__(self, asked: _Asked, question: Question[Row]) -> None:
        self._asked = asked
        self.question = question

    def __iter__(self) -> Iterator[Row]:
        """Raises DatabaseUnavailable, and ConfigurationError for what an operator has to correct first."""
        kind = type(self.question)
        return self._asked._rows(
            _query(name_of(kind)), self.question.values, row_factory=class_row(row_of(kind))
        )

    def to_frame(self, library: str = "pandas") -> Any:
        """All rows as a pandas.DataFrame, polars.DataFrame or pyarrow.Table: "pandas", "polars", "arrow".

        Times are in UTC. Raises as iterating does, and MissingLibrary.
        """
        from risk_worker.query import frames

        return frames.frame_of(self, row_of(type(self.question)), library)


@cache
def _query(name: str) -> LiteralString:
    return statements(__package__, f"{name}.sql")[name]
