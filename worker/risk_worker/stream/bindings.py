"""Whose the streams are: beside each stands the identity of the database that it is stored in.

Where there is none, in a Redis that is new or was emptied, the first worker writes that of its own database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from risk_producer.contract.identity import difference
from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.errors import ConfigurationError
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import Question, ask_each


class OtherDatabase(ConfigurationError):
    """Redis and Postgres are not of one deployment; the message names both identities, and what to do."""


class Bindings:
    """The identities beside the streams on one Redis, compared with that of one database."""

    def __init__(self, client: RedisClient, identity: str) -> None:
        self._client = client
        self.identity = identity

    def held(self, names: Iterable[str]) -> dict[str, Any]:
        """What each key holds: bytes, None, or the error.

        Raises one of REDIS_ERRORS where no server answers.
        """
        keys = list(names)
        return dict(zip(keys, ask_each(self._client, [(key, ("GET", key)) for key in keys]), strict=True))

    def write(self, names: Iterable[str]) -> dict[str, Any]:
        """Write the identity where there is none. Returns what each key holds then, as held().

        Of two that do it at once the first one's stands, and both see it. A Redis that is full takes no
        write, and the key stays empty.
        """
        keys = list(names)
        questions: list[Question] = []
        for key in keys:
            questions += [(key, ("SET", key, self.identity, "NX")), (key, ("GET", key))]
        return dict(zip(keys, ask_each(self._client, questions)[1::2], strict=True))

    def problems(self, names: Iterable[str]) -> dict[str, Exception]:
        """Which keys name another database, or cannot be read, and why; writes ours where there is none.

        Raises one of REDIS_ERRORS where no server answers.
        """
        found = self.held(names)
        missing = [key for key, value in found.items() if value is None]
        if missing:
            found |= self.write(missing)
        return {key: error for key, value in found.items() if (error := self.problem(key, value))}

    def claim(self, partitions: Iterable[Keys]) -> None:
        """Write the identity beside each stream that has none, where none of them is another database's.

        One first: of two first workers of two databases that start at once the other one stops there.
        Raises OtherDatabase, and one of REDIS_ERRORS where no server answers.
        """
        names = [keys.database for keys in partitions]
        self.require_own(self.held(names))
        for some in (names[:1], names[1:]):
            self.require_own(self.write(some))

    def require_own(self, found: Mapping[str, Any]) -> None:
        """Raise OtherDatabase where a key that could be read names another database."""
        others = [
            text
            for key, value in found.items()
            if isinstance(value, bytes) and (text := difference(key, value, self.identity))
        ]
        if others:
            raise OtherDatabase(others[0] + (f" ({len(others)} keys differ)" if len(others) > 1 else ""))

    def problem(self, key: str, value: Any) -> Exception | None:
        """Why a key that holds this, or the error, is not this database's; None: it is, or holds nothing."""
        if value is None or isinstance(value, Exception):
            return value
        text = difference(key, value, self.identity)
        return OtherDatabase(text) if text else None


def claim_drain_jobs(client: RedisClient, keyspace: Keyspace, identity: str) -> None:
    """The same for the drain jobs, in RQ's Redis. Raises OtherDatabase, and one of REDIS_ERRORS."""
    bindings = Bindings(client, identity)
    found = bindings.held([keyspace.database])
    if found[keyspace.database] is None:
        found = bindings.write(found)
    bindings.require_own(found)
