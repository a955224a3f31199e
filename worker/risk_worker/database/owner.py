"""A connection of one's own: opened when it is first needed, and again when it broke."""

from __future__ import annotations

from typing import TYPE_CHECKING

from risk_worker.database import connection as database

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class ConnectionOwner:
    """Base of what keeps one connection to Postgres for itself. Not thread-safe."""

    def __init__(self, url: str, purpose: database.Purpose) -> None:
        self._url = url
        self._purpose = purpose
        self._connection: database.Connection | None = None

    def close(self) -> None:
        """Give the connection back. The object may be used again: it connects anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> database.Connection:
        """The connection. Raises what connect() raises."""
        if self._connection is None or self._connection.closed:
            self._connection = database.connect(self._url, self._purpose)
            try:
                with self._connection.answered_within(database.ANSWER_S):
                    self._opened(self._connection)
            except BaseException:
                self.close()
                raise
        return self._connection

    def _opened(self, connection: database.Connection) -> None:
        """Prepare a connection that was just opened; a subclass may need something of the session."""
