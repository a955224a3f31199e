"""`riskstream rebind`: from now on the streams are stored in this database, as an operator decides.

Each partition's identity is written by a script that records it in the same step, where `riskstream repair`
records too: the stream risk:{p}:repairs. So there is no change without its record, on a cluster either. That
of the drain jobs, in RQ's Redis, is recorded with the first partition's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from risk_producer.contract.identity import shown
from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import script
from risk_producer.settings import Settings, mask
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.database import connection as database
from risk_worker.database.deployment import identity_of, renew
from risk_worker.database.reader import connected
from risk_worker.recovery.repair import KEPT, RepairImpossible, operator
from risk_worker.stream import scan
from risk_worker.stream.bindings import Bindings

_WHY: Final = "riskstream rebind: the database of this identity stores the stream from now on"


class _Message(msgspec.Struct):
    """The message to rebind.lua, which also gets what the key held, and what to write."""

    kept: int
    by: str
    why: str


class _Changed(msgspec.Struct):
    """The answer of rebind.lua."""

    changed: int
    """0: the key has changed meanwhile, and nothing was done."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One key that holds an identity, as it was seen."""

    key: str
    held: bytes | None
    keys: Keys
    """The partition whose repairs get the record."""
    of_drain_jobs: bool = False


class Rebind:
    """What is bound to which database, and the change of it. Made by opened()."""

    def __init__(
        self, settings: Settings, client: RedisClient, rq: RedisClient, connection: database.Connection
    ) -> None:
        self._settings = settings
        self._client: Any = client
        self._rq: Any = rq
        self._connection = connection
        self._script = client.register_script(script(__package__, "rebind"))
        self.identity = identity_of(connection)
        self.bindings = self._read()

    def describe(self) -> Iterator[str]:
        """Lines for the operator: both identities, and where they are."""
        yield f"The database {mask(self._settings.require_database_url())} is {self.identity}."
        held: dict[str, list[str]] = {}
        for each in self.bindings:
            held.setdefault("nothing yet" if each.held is None else shown(each.held), []).append(each.key)
        where = mask(self._settings.require_redis_url())
        for identity, names in held.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"Redis {where} names {identity} ({names[0]}{more})."

    def changes(self) -> list[Binding]:
        """Those that name another database, or none."""
        return [each for each in self.bindings if each.held != self.identity.encode()]

    def renew(self) -> None:
        """Give the database another identity."""
        self.identity = renew(self._connection, self.identity)

    def apply(self) -> list[str]:
        """Write the database's identity everywhere. Returns what was changed, a line each."""
        return [self._apply(each) for each in self.changes()]

    def _read(self) -> list[Binding]:
        settings = self._settings
        partitions = scan.partitions_in_use(self._client, settings.partitions, settings.keyspace)
        found = Bindings(self._client, self.identity).held(keys.database for keys in partitions)
        of_jobs = Bindings(self._rq, self.identity).held([settings.keyspace.database])
        for key, value in (found | of_jobs).items():
            if isinstance(value, Exception):
                raise RepairImpossible(f"Redis' key {key} cannot be read ({value}); DEL removes it")
        return [
            *(Binding(keys.database, found[keys.database], keys) for keys in partitions),
            *(Binding(key, value, partitions[0], of_drain_jobs=True) for key, value in of_jobs.items()),
        ]

    def _apply(self, binding: Binding) -> str:
        before = binding.held or b""
        if binding.of_drain_jobs:
            record = {"by": operator(), "trader": "", "key": binding.key, "field": "", "before": before}
            record |= {"after": self.identity, "why": _WHY}
            self._client.xadd(binding.keys.repairs, record, maxlen=KEPT, approximate=False)
            self._rq.set(binding.key, self.identity)
        else:
            message = msgspec.json.encode(_Message(KEPT, operator(), _WHY))
            answer = self._script(
                keys=[binding.key, binding.keys.repairs, binding.keys.floors],
                args=[message, before, self.identity],
            )
            if not msgspec.json.decode(answer, type=_Changed).changed:
                raise RepairImpossible(f"Redis' key {binding.key} has changed meanwhile: look again")
        was = "nothing" if binding.held is None else shown(binding.held)
        return f"{binding.key}: was {was}, now {self.identity}"


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Rebind]:
    """Connect to all. Raises RepairImpossible, DatabaseUnavailable or ConfigurationError."""
    url, rq_url = settings.require_redis_url(), settings.require_rq_redis_url()
    try:
        with (
            redis_client(url, answer_timeout_s=30, connect_timeout_s=5) as client,
            redis_client(rq_url, answer_timeout_s=30, connect_timeout_s=5) as rq,
            connected(settings.require_database_url()) as connection,
        ):
            yield Rebind(settings, client, rq, connection)
    except REDIS_ERRORS as error:
        raise RepairImpossible(f"Redis did not answer: {error}") from error
