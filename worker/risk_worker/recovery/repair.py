"""`riskstream repair`: set what Redis holds of one trader right again, and record what was changed.

What cannot be read, or is another trader's, is set from what is certain: the entries in the stream and the
rows in Postgres. Every change is recorded in the stream risk:{p}:repairs, with what was there before. A key
that has another type than it should is put aside under another name.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any, Final, cast

import msgspec
import psycopg

from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import number_in, script
from risk_producer.contract.statements import statements
from risk_producer.contract.wire import EPOCH_MAX, FIELD, WireSnapshot, decode
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.database import connection as database
from risk_worker.database.deployment import identity_of
from risk_worker.database.sqlstate import classify_error
from risk_worker.recovery import floors
from risk_worker.stream import partitions
from risk_worker.stream.bindings import Bindings

KEPT: Final = 1_000
"""How many changes risk:{p}:repairs holds."""
_TRIES: Final = 10
_PAGE: Final = 1_000
_TYPES: Final = {
    "repairs": b"stream",
    "snapshots": b"stream",
    "superseded": b"list",
    "database": b"string",
    **dict.fromkeys(("latest", "epochs", "floors", "behind", "admitted"), b"hash"),
    **dict.fromkeys(("counters", "attempts", "failures", "latency_ms", "latency_buckets"), b"hash"),
}
_SQL: Final = statements(__package__, "repair.sql")


class RepairImpossible(RiskError):
    """Redis or Postgres did not answer, or what is to be repaired changes all the time."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that is set, or deleted, or one key that is put aside (field is empty then)."""

    key: str
    field: str
    before: bytes | None
    after: bytes | None
    why: str

    def __str__(self) -> str:
        if not self.field:
            return f"{self.key}: {self.why}; put aside as {_shown(self.after)}"
        return f"{self.key} {self.field!r}: {self.why}; was {_shown(self.before)}, now {_shown(self.after)}"


@dataclass(slots=True)
class _InStream:
    """What the partition's stream has of the trader."""

    newest: dict[int, tuple[WireSnapshot, bytes]] = field(default_factory=dict)
    """epoch -> the snapshot with the highest seq, and its payload"""

    def last_seq(self, epoch: int) -> int:
        """0: there is none."""
        return self.newest[epoch][0].seq if epoch in self.newest else 0


def repair(settings: Settings, trader_id: str, *, dry_run: bool) -> list[Change]:
    """Returns what was changed, or with dry_run would be. Raises RepairImpossible or ConfigurationError.

    OtherDatabase, a ConfigurationError: Redis and Postgres are not of one deployment.
    """
    database_url = settings.require_database_url()
    try:
        with (
            redis_client(settings.require_redis_url(), answer_timeout_s=30, connect_timeout_s=5) as client,
            database.connect(database_url, database.COMMAND) as connection,
        ):
            keyspace = _keyspace_of(connection, settings, trader_id)
            seen = partitions.look(client, keyspace, settings.partitions)
            agreed = seen.agreed or Partitioning.wished(settings.partitions)
            first, *others = map(keyspace.keys, agreed.places(trader_id))
            bindings = Bindings(client, identity_of(connection))
            bindings.require_own(bindings.held(keys.database for keys in (first, *others)))
            changes = _Repair(client, connection, first, trader_id).run(dry_run=dry_run)
            for keys in others:
                former = _Repair(client, connection, keys, trader_id)
                if former.knows():
                    changes += former.run(dry_run=dry_run)
            return changes
    except REDIS_ERRORS as error:
        raise RepairImpossible(f"Redis did not answer: {error}") from error
    except psycopg.Error as error:
        raise RepairImpossible(f"the database: {classify_error(error)}") from error


def _keyspace_of(connection: database.Connection, settings: Settings, trader_id: str) -> Keyspace:
    """Of the namespace that the trader belongs to. Raises RepairImpossible where that is another one.

    ConfigurationError: it belongs to none, and there are several.
    """
    keyspace = settings.keyspace
    row = connection.execute(_SQL["namespace"], {"trader": trader_id}).fetchone()
    if row is None or row[0] is None:
        return Keyspace(settings.require_namespace()) if keyspace.is_several else keyspace
    if row[0] not in keyspace.namespaces:
        raise RepairImpossible(
            f"{trader_id!r} belongs to namespace {row[0]}, which is not that of the settings"
        )
    return Keyspace(row[0])


def operator() -> str:
    """Who runs the command, for its record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


class _Field(msgspec.Struct, omit_defaults=True):
    """A field that repair.lua changes. Values may be any bytes, so they are arguments of their own."""

    field: str
    why: str
    before: int = 0
    """The number of the argument that holds the value; 0: the field was not there."""
    after: int = 0
    """0: the field is deleted."""


class _Changes(msgspec.Struct):
    """The message to repair.lua."""

    kept: int
    by: str
    trader: str
    changes: list[_Field]


class _Changed(msgspec.Struct):
    """The answer of repair.lua."""

    changed: int
    """How many; 0: a field has changed meanwhile, and nothing was done."""


def repair_arguments(by: str, trader_id: str, changes: Sequence[Change]) -> list[bytes]:
    """ARGV of repair.lua."""
    values: list[bytes] = []

    def number_of(value: bytes | None) -> int:
        if value is None:
            return 0
        values.append(value)
        return 1 + len(values)

    fields = [_Field(each.field, each.why, number_of(each.before), number_of(each.after)) for each in changes]
    return [msgspec.json.encode(_Changes(KEPT, by, trader_id, fields)), *values]


class _Repair:
    def __init__(
        self, client: RedisClient, connection: psycopg.Connection, keys: Keys, trader_id: str
    ) -> None:
        self._client: Any = client
        self._connection = connection
        self._keys = keys
        self._trader_id = trader_id
        self._by = operator()
        self._apply = client.register_script(script(__package__, "repair"))

    def run(self, *, dry_run: bool) -> list[Change]:
        aside = self._wrong_types()
        if dry_run:
            return [*aside, *self._changes({change.key for change in aside})]
        for change in aside:
            self._put_aside(change)
        for _ in range(_TRIES):
            changes = self._changes(set())
            if not changes or self._applied(changes):
                return [*aside, *changes]
        raise RepairImpossible(f"what Redis holds of {self._trader_id!r} changes all the time; try again")

    def knows(self) -> bool:
        """Whether there is anything of the trader, in a partition that is not its own any more."""
        keys = (self._keys.epochs, self._keys.floors, self._keys.latest, self._keys.behind)
        return any(
            self._client.type(key) == b"hash" and self._client.hexists(key, self._trader_id) for key in keys
        )

    # Keys as a whole.

    def _wrong_types(self) -> list[Change]:
        changes = []
        for name, expected in _TYPES.items():
            key = getattr(self._keys, name)
            found = self._client.type(key)
            if found not in (b"none", expected):
                why = f"holds a {found.decode()} where a {expected.decode()} is expected"
                changes.append(Change(key, "", None, f"{key}:aside:{int(time() * 1000)}".encode(), why))
        return changes

    def _put_aside(self, change: Change) -> None:
        """Workers compare Redis with Postgres anew then, for what was in it of other traders."""
        assert change.after is not None
        self._client.rename(change.key, change.after)
        record = {"by": self._by, "trader": self._trader_id, "key": change.key, "after": change.after}
        self._client.xadd(self._keys.repairs, record | {"why": change.why}, maxlen=KEPT, approximate=False)
        if self._client.type(self._keys.floors) == b"hash":
            self._client.hdel(self._keys.floors, "")

    # Fields of the trader.

    def _changes(self, aside: set[str]) -> list[Change]:
        """aside: keys that are to be put aside, and count as empty."""
        keys, trader = self._keys, self._trader_id
        # What moves, moves from the stream into Postgres: so the stream is read first.
        in_stream = _InStream() if keys.snapshots in aside else self._in_stream()
        row = next(iter(floors.rows_of(self._connection, _SQL["state"], {"trader": trader})), None)
        state = None if row is None else decode(floors.payload_of(row))

        def held(key: str) -> bytes | None:
            return None if key in aside else cast("bytes | None", self._client.hget(key, trader))

        admitted = {} if keys.admitted in aside else self._admitted()
        epoch_raw, floor_raw = held(keys.epochs), held(keys.floors)
        latest_raw, behind_raw = held(keys.latest), held(keys.behind)
        floor = number_in(floor_raw)
        known = [
            *(epoch for epoch in admitted if epoch < EPOCH_MAX),
            *([] if state is None else [state.epoch]),
            *([] if floor is None or floor >= EPOCH_MAX else [floor]),
        ]
        latest = self._decoded(latest_raw)
        changes = list(self._admitted_changes(admitted, in_stream, latest))

        epoch = number_in(epoch_raw)
        if epoch_raw is not None and (epoch is None or epoch >= EPOCH_MAX):
            epoch = max(known, default=0)
            new = b"%d" % epoch if epoch else None
            changes.append(Change(keys.epochs, trader, epoch_raw, new, "is no epoch that can be used"))
        elif known and (epoch or 0) < max(known):
            epoch = max(known)
            changes.append(
                Change(keys.epochs, trader, epoch_raw, b"%d" % epoch, "a greater epoch was given out")
            )

        if floor_raw is not None and (floor is None or floor >= EPOCH_MAX):
            new = None if state is None else b"%d" % state.epoch
            changes.append(Change(keys.floors, trader, floor_raw, new, "is no epoch that can be used"))
        elif floor is not None and state is not None and max(floor, number_in(epoch_raw) or 0) < state.epoch:
            changes.append(
                Change(keys.floors, trader, floor_raw, b"%d" % state.epoch, "Postgres has a greater epoch")
            )

        newest, why = self._newest(latest_raw, latest, in_stream, state, row, epoch or 0)
        if why:
            changes.append(Change(keys.latest, trader, latest_raw, newest, why))
        if behind_raw is not None:
            changes.append(
                Change(
                    keys.behind, trader, behind_raw, None, "the state in Postgres is decided to be the newest"
                )
            )
        return changes

    def _admitted(self) -> dict[int, bytes]:
        """epoch -> the raw value, of the trader's fields."""
        pattern = "*:" + re.sub(r"([\\*?\[\]])", r"\\\1", self._trader_id)
        found = {}
        for name, value in self._client.hscan_iter(self._keys.admitted, match=pattern, count=_PAGE):
            epoch, _, trader = name.partition(b":")
            number = number_in(epoch)
            if trader == self._trader_id.encode() and number is not None:
                found[number] = value
        return found

    def _admitted_changes(
        self, admitted: dict[int, bytes], in_stream: _InStream, latest: WireSnapshot | None
    ) -> Iterator[Change]:
        for epoch, raw in admitted.items():
            seq = number_in(raw)
            last = max(in_stream.last_seq(epoch), self._last_stored(epoch))
            ahead = latest is not None and latest.epoch == epoch and latest.seq < (seq or 0)
            if seq is None or (ahead and seq > last):
                why = "is not the last seq that was admitted"
                new = b"%d" % last if last else None
                yield Change(self._keys.admitted, f"{epoch}:{self._trader_id}", raw, new, why)

    def _last_stored(self, epoch: int) -> int:
        asked = {"trader": self._trader_id, "epoch": epoch}
        [row] = floors.rows_of(self._connection, _SQL["last_seq"], asked)
        return int(row["seq"] or 0)

    def _in_stream(self) -> _InStream:
        found = _InStream()
        after = "-"
        while True:
            page = self._client.xrange(self._keys.snapshots, min=after, count=_PAGE)
            for _, fields in page:
                payload = fields.get(FIELD)
                snapshot = self._decoded(payload)
                if snapshot is None:
                    continue
                if snapshot.seq > found.last_seq(snapshot.epoch):
                    found.newest[snapshot.epoch] = (snapshot, payload)
            if len(page) < _PAGE:
                return found
            after = f"({page[-1][0].decode()}"

    def _newest(
        self,
        raw: bytes | None,
        held: WireSnapshot | None,
        in_stream: _InStream,
        state: WireSnapshot | None,
        row: dict[str, Any] | None,
        epoch: int,
    ) -> tuple[bytes | None, str]:
        """(what latest has to be, why it is not; empty: it is right). epoch: the newest given out."""
        given_out = [known for known in in_stream.newest if known <= epoch]
        best, payload = in_stream.newest[max(given_out)] if given_out else (None, None)
        if row is not None and state is not None and (best is None or _order(best) <= _order(state)):
            best, payload = state, floors.payload_of(row)
        if raw is not None and held is None:
            return payload, "is no snapshot of this trader"
        if held is not None and held.epoch > epoch:
            return payload, "has an epoch that was not given out"
        if best is not None and (held is None or _order(held) < _order(best)):
            return payload, "is missing" if held is None else "is older than what was accepted"
        return raw, ""

    def _decoded(self, payload: bytes | None) -> WireSnapshot | None:
        """None: it is no snapshot of this trader."""
        try:
            found = None if payload is None else decode(payload)
        except InvalidSnapshot:
            return None
        return found if found is not None and found.trader_id == self._trader_id else None

    def _applied(self, changes: Sequence[Change]) -> bool:
        """Apply them all; False: one of the fields has changed meanwhile."""
        keys = [self._keys.repairs, *(change.key for change in changes)]
        answer = self._apply(keys=keys, args=repair_arguments(self._by, self._trader_id, changes))
        return msgspec.json.decode(answer, type=_Changed).changed > 0


def _order(snapshot: WireSnapshot) -> tuple[int, int]:
    return snapshot.epoch, snapshot.seq


def _shown(value: bytes | None) -> str:
    if value is None:
        return "nothing"
    text = value[:60].decode("ascii", "backslashreplace")
    return text + ("..." if len(value) > 60 else "")
