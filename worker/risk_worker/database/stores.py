"""Two connections that store in turn, so that rows go over one while the other commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Batch, Outcome

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class PostgresStores:
    """Stores as PostgresStore does; begin() once more while its last transaction is being committed.

    The second connection is opened when it is first needed. Only cut() is thread-safe.
    """

    def __init__(self, url: str, identity: str | None = None, *, assigns_traders: bool = False) -> None:
        """As PostgresStore."""
        first, second = (PostgresStore(url, identity, assigns_traders=assigns_traders) for _ in range(2))
        self._stores = (first, second)

    def save_all(self, batches: Sequence[Batch]) -> list[Outcome]:
        """As PostgresStore."""
        return self._stores[0].save_all(batches)

    def begin(self, batches: Sequence[Batch]) -> PostgresStore | None:
        """As PostgresStore; None, too, where both connections have such a transaction."""
        for each in self._stores:
            if each.is_free:
                return each.begin(batches)
        return None

    def cut(self) -> None:
        """As PostgresStore."""
        for each in self._stores:
            each.cut()

    @property
    def backend_pids(self) -> list[int]:
        """The server's processes of the connections, without those behind a pooler."""
        return [pid for each in self._stores for pid in each.backend_pids]

    def close(self) -> None:
        """As PostgresStore."""
        for each in self._stores:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
