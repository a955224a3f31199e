"""`riskstream verify`: the reconciliation of the whole system.

accepted + foreign = stored + dead + dropped + conflated + in flight + not retained, where nothing is lost.

It may run while everything else runs. What moves, moves one way: accepted, then in the stream, then in the
database, and it leaves the stream only after it is in the database. So the accepted counts are read first,
then the streams, then the database: whatever was accepted by then is found in one of the two, or is lost.

Foreign is what no producer sent: entries of a stream that have no identity, or a seq beyond the last one that
Redis admitted for that trader and epoch, and dead letters of such entries. So is what came by another
namespace than its trader's: it changes nothing of what is counted for the trader.
"""

from __future__ import annotations

import contextlib
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic, sleep
from typing import Final

from redis.exceptions import AuthenticationError, RedisClusterException, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.contract.wire import FIELD, decode
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import (
    REDIS_ERRORS,
    CertificateRefused,
    RedisClient,
    ServerTooOld,
    redis_client,
    try_to_connect,
)
from risk_worker.audit import known_loss
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.known_loss import KnownLoss
from risk_worker.audit.ledger import EpochKey, Ledger
from risk_worker.audit.ranges import Range, touches
from risk_worker.audit.reconcile import Report, reconcile, without_earlier
from risk_worker.database import extension
from risk_worker.database.deployment import identity_of
from risk_worker.database.reader import connected
from risk_worker.seal import verify as seals
from risk_worker.stream import progress as partitions_progress
from risk_worker.stream import scan
from risk_worker.stream.bindings import Bindings

REDIS_WAIT_S: Final = 8.0
"""How long verify waits for a Redis that restarts, or fails over."""
MESSAGE_AFTER_S: Final = 2.0
TRY_AGAIN_EVERY_S: Final = 0.2


class RedisUnavailable(RiskError):
    """Redis did not answer, so nothing is known; the message says why."""


class TraderUnknown(RiskError):
    """Neither Redis nor Postgres knows a snapshot of the trader that was asked for."""


def verify(
    settings: Settings,
    trader: str | None = None,
    retained_since: datetime | timedelta | None = None,
    *,
    deep: bool = False,
    progress: seals.Progress | None = None,
    lost_since: datetime | timedelta | None = None,
) -> Report:
    """Reconcile one trader, or all. What seems lost, or behind, is looked for once more.

    retained_since: what was recorded before it, or longer ago, may be gone from history. deep: read again
    what is sealed too, run by run, and compare it with the seals, by whose totals it is counted. lost_since:
    what was lost before it, or longer ago, is no problem.
    Raises RedisUnavailable, DatabaseUnavailable, TraderUnknown, ConfigurationError (OtherDatabase where Redis
    and Postgres are not of one deployment), or MigrationError.
    """
    database_url = settings.require_database_url()
    horizon, since = _moment(retained_since), _moment(lost_since)
    redis_url = settings.require_redis_url()
    with (
        _explained(),
        redis_client(redis_url, answer_timeout_s=30, connect_timeout_s=5, retries=10) as client,
    ):
        _wait_for_redis(redis_url)
        _require_own(client, settings)
        asked = (client, database_url, settings.partitions, settings.keyspace)
        report = look(*asked, trader, horizon)
        missing = {(epoch.trader_id, epoch.epoch): epoch.gaps for epoch in report.epochs if epoch.gaps}
        # A state too: TimescaleDB plans by what chunks are now, so that rows which were compressed since the
        # snapshot was taken are out of its sight.
        if report.states_behind or (missing and _found_since(*asked, missing, trader, report.sealed_until)):
            report = look(*asked, trader, horizon)
    if trader is not None and not report.epochs and not report.states_behind and not report.findings:
        raise TraderUnknown(f"neither Redis nor Postgres knows a snapshot of {trader!r}")
    if since is not None:
        with_gaps = [(epoch.trader_id, epoch.epoch) for epoch in report.epochs if epoch.gaps]
        report = without_earlier(report, since, audit_ledger.recorded_before(database_url, with_gaps, since))
    if deep:
        read = seals.verify(database_url, deep=True, trader=trader, progress=progress)
        findings = [*report.findings, *(finding.message for finding in read.findings)]
        report = replace(report, findings=findings, rows_read=read.rows_read, seconds=read.seconds)
    return report


def _moment(given: datetime | timedelta | None) -> datetime | None:
    return datetime.now(UTC) - given if isinstance(given, timedelta) else given


def _require_own(client: RedisClient, settings: Settings) -> None:
    """Raise OtherDatabase where a partition is stored in another database than the one that is asked."""
    with connected(settings.require_database_url()) as connection:
        bindings = Bindings(client, identity_of(connection))
    partitions = scan.partitions_in_use(client, settings.partitions, settings.keyspace)
    bindings.require_own(bindings.held(keys.database for keys in partitions))


def look(
    client: RedisClient,
    database_url: str,
    partitions: int,
    keyspace: Keyspace = NO_NAMESPACE,
    trader: str | None = None,
    horizon: datetime | None = None,
) -> Report:
    """Look at everything once, in the order that makes it safe.

    Raises one of REDIS_ERRORS, and what read() does.
    """
    in_use = scan.partitions_in_use(client, partitions, keyspace)
    by_namespace = [
        [keys for keys in in_use if keys.namespace == namespace] for namespace in keyspace.namespaces
    ]
    admitted = [_Admitted(client, of, trader) for of in by_namespace]
    waiting = [_Waiting(client, of, trader) for of in by_namespace]
    foreign = [of.take_foreign(side) for side, of in zip(admitted, waiting, strict=True)]
    sides = [_Side(*each) for each in zip(keyspace.namespaces, admitted, waiting, foreign, strict=True)]
    ledger = audit_ledger.read(database_url, trader, admitted=partial(_admitted_now, sides), horizon=horizon)
    if trader is not None and (owner := ledger.owners.get(trader)) not in (None, *keyspace.namespaces):
        raise TraderUnknown(f"{trader!r} belongs to namespace {owner}, which is not that of the settings")
    known = known_loss.in_force(database_url, trader)
    report = _reconciled(sides, ledger, known)
    undecided = [finding for side in sides for finding in side.findings(ledger.owners)]
    numbers = [keyspace.number_of(keys) for keys in in_use]
    not_drained = partitions_progress.problems(client, numbers, keyspace)
    findings = [*undecided, *not_drained]
    with connected(database_url) as connection:
        findings += extension.retention_policies(connection)
    return replace(report, findings=findings, undecided=undecided, not_drained=not_drained)


@dataclass(frozen=True, slots=True)
class _Side:
    """What Redis has of one namespace."""

    namespace: str
    admitted: _Admitted
    waiting: _Waiting
    foreign: Mapping[EpochKey, int]
    """Entries in the name of an epoch that no producer sent."""

    def may_report(self, trader_id: str, owners: Mapping[str, str]) -> bool:
        """Whether a trader belongs to this namespace, or to none."""
        return owners.get(trader_id, self.namespace) == self.namespace

    def findings(self, owners: Mapping[str, str]) -> list[str]:
        """What cannot be decided; of traders only what the namespace may report."""
        behind = [text for name, text in self.admitted.behind if self.may_report(name, owners)]
        return [*self.admitted.findings, *behind, *self.waiting.findings]


def _admitted_now(
    sides: Sequence[_Side], epochs: Sequence[EpochKey], owners: Mapping[str, str]
) -> list[int | None]:
    """The last seq that was admitted by now, where the trader may be reported; as _Admitted.now() has it."""
    found: dict[EpochKey, int | None] = {}
    for side in sides:
        own = [key for key in epochs if side.may_report(key[0], owners)]
        for key, seq in zip(own, side.admitted.now(own), strict=True):
            before = found.get(key, 0)
            found[key] = None if seq is None or before is None else max(seq, before)
    return [found.get(key, 0) for key in epochs]


def _reconciled(sides: Sequence[_Side], ledger: Ledger, known: Sequence[KnownLoss]) -> Report:
    """Each trader is looked for in the namespaces that may report it."""
    owners = ledger.owners
    admitted: dict[EpochKey, int] = {}
    waiting: dict[EpochKey, list[Range]] = defaultdict(list)
    foreign_of: dict[EpochKey, int] = defaultdict(int)
    foreign = 0
    for side in sides:
        for key, seq in side.admitted.epochs.items():
            if side.may_report(key[0], owners):
                admitted[key] = max(seq, admitted.get(key, 0))
        foreign += side.waiting.foreign
        for key, count in side.foreign.items():
            if side.may_report(key[0], owners):
                foreign_of[key] += count
            else:
                foreign += count
        for key, entries in side.waiting.epochs.items():
            if side.may_report(key[0], owners):
                waiting[key] += entries
            else:
                foreign += sum(1 for _ in entries)
    if owners:
        served = {None, *(side.namespace for side in sides)}
        ledger = replace(
            ledger,
            epochs={key: of for key, of in ledger.epochs.items() if owners.get(key[0]) in served},
            stale=tuple(each for each in ledger.stale if owners.get(each) in served),
        )
    return reconcile(admitted, waiting, ledger, foreign, foreign_of, known)


def _found_since(
    client: RedisClient,
    database_url: str,
    partitions: int,
    keyspace: Keyspace,
    missing: Mapping[EpochKey, Sequence[Range]],
    trader: str | None,
    since: str,
) -> bool:
    """Whether any of what was missing is in a stream or the database by now."""
    waiting = _Waiting(client, scan.partitions_in_use(client, partitions, keyspace), trader).epochs
    return any(touches(missing[key], waiting[key]) for key in missing.keys() & waiting.keys()) or (
        audit_ledger.found_since(database_url, missing, trader, since)
    )


class _Admitted:
    """What Redis admitted of each epoch, and what it holds about traders that cannot be read."""

    def __init__(self, client: RedisClient, partitions: Sequence[Keys], trader: str | None) -> None:
        self._client = client
        self.partitions = partitions
        self.epochs: dict[EpochKey, int] = {}
        self.findings: list[str] = []
        self.behind: list[tuple[str, str]] = []
        """Traders of which it is not certain which snapshot is the newest, and the finding that says so."""
        wanted = None if trader is None else trader.encode(errors="surrogateescape")
        for keys in self.partitions:
            for name, value in self._fields(keys.admitted):
                self._add(keys.admitted, name, value, wanted)
            for name, value in self._fields(keys.epochs):
                if wanted in (None, name):
                    self._check_epoch(keys.epochs, name, value)
            for name, value in self._fields(keys.behind):
                if wanted in (None, name):
                    trader_id = scan.printable(name)
                    finding = (
                        f"{trader_id}: Redis lost data, and which of its snapshots is the newest is not "
                        f"certain ({keys.behind} has {scan.printable(value)}); "
                        f"run riskstream repair {trader_id}"
                    )
                    self.behind.append((name.decode(errors="backslashreplace"), finding))

    def now(self, epochs: Sequence[EpochKey]) -> list[int | None]:
        """The last seq that was admitted by now; 0: the epoch is not known; None: it cannot be read."""
        return scan.admitted_seqs(self._client, self.partitions, epochs)

    def _add(self, key: str, name: bytes, value: bytes, wanted: bytes | None) -> None:
        if not name:
            return  # no epoch, see keys
        epoch_text, colon, raw_trader = name.partition(b":")
        if wanted not in (None, raw_trader):
            return
        epoch, last_seq = scan.whole_number(epoch_text), scan.whole_number(value)
        try:
            trader_id = raw_trader.decode()
        except UnicodeDecodeError:
            trader_id = ""
        if epoch is None or not colon or not trader_id:
            self.findings.append(
                f"{key}: the field {scan.printable(name)} names no epoch and trader; remove it with HDEL"
            )
        elif last_seq is None:
            self.findings.append(_unreadable(key, name, value, trader_id))
        else:
            epoch_key = (trader_id, epoch)
            self.epochs[epoch_key] = max(last_seq, self.epochs.get(epoch_key, 0))

    def _check_epoch(self, key: str, name: bytes, value: bytes) -> None:
        if name and scan.whole_number(value) is None:
            self.findings.append(_unreadable(key, name, value, name.decode(errors="backslashreplace")))

    def _fields(self, key: str) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from scan.fields(self._client, key)
        except ResponseError as error:
            self.findings.append(scan.wrong_type(self._client, key, "hash", error))


class _Waiting:
    """What is in the streams: the seq numbers that each entry stands for, by epoch."""

    def __init__(self, client: RedisClient, partitions: Sequence[Keys], trader: str | None) -> None:
        self.foreign = 0
        self.findings: list[str] = []
        self._pairs: dict[EpochKey, array[int]] = defaultdict(lambda: array("q"))
        for keys in partitions:
            try:
                for _, fields in scan.entries(client, keys.snapshots):
                    self._add(fields, trader)
            except ResponseError as error:
                self.findings.append(scan.wrong_type(client, keys.snapshots, "stream", error))

    @property
    def epochs(self) -> dict[EpochKey, Iterable[Range]]:
        return {key: zip(pairs[0::2], pairs[1::2], strict=True) for key, pairs in self._pairs.items()}

    def take_foreign(self, admitted: _Admitted) -> dict[EpochKey, int]:
        """Remove the entries whose seq was never admitted. Returns how many, by epoch."""
        beyond = [key for key, pairs in self._pairs.items() if max(pairs[1::2]) > admitted.epochs.get(key, 0)]
        foreign: dict[EpochKey, int] = {}
        for key, highest in zip(beyond, admitted.now(beyond), strict=True):
            if highest is None:
                continue
            kept = array("q")
            for first, last in zip(self._pairs[key][0::2], self._pairs[key][1::2], strict=True):
                if last <= highest:
                    kept.extend((first, last))
            if len(kept) < len(self._pairs[key]):
                foreign[key] = (len(self._pairs[key]) - len(kept)) // 2
                self._pairs[key] = kept
            if not kept:
                del self._pairs[key]
        return foreign

    def _add(self, fields: Mapping[bytes, bytes], trader: str | None) -> None:
        try:
            if fields.keys() != {FIELD}:
                raise InvalidSnapshot("a foreign entry")
            snapshot = decode(fields[FIELD])
        except InvalidSnapshot:
            self.foreign += trader is None
            return
        if trader is not None and snapshot.trader_id != trader:
            return
        pair = (snapshot.seq - snapshot.merged, snapshot.seq)
        self._pairs[snapshot.trader_id, snapshot.epoch].extend(pair)


def _unreadable(key: str, name: bytes, value: bytes, trader_id: str) -> str:
    return (
        f"{key}, field {scan.printable(name)}: {scan.printable(value)} is no number that can be counted "
        f"with; run riskstream repair {trader_id}"
    )


def _wait_for_redis(
    redis_url: str,
    clock: Callable[[], float] = monotonic,
    pause: Callable[[float], None] = sleep,
) -> None:
    """Return once Redis takes a connection; after MESSAGE_AFTER_S, stderr shows for what it waits.

    Raises one of REDIS_ERRORS after REDIS_WAIT_S, and at once where waiting does not help.
    """
    began, shown = clock(), False
    with redis_client(redis_url, answer_timeout_s=5, connect_timeout_s=5) as client:
        while True:
            try:
                try_to_connect(client)
                return
            except (AuthenticationError, CertificateRefused, ServerTooOld):
                raise
            except (RedisConnectionError, RedisClusterException) as error:
                waited_s = clock() - began
                if waited_s >= REDIS_WAIT_S:
                    raise
                if waited_s >= MESSAGE_AFTER_S and not shown:
                    shown = True
                    left_s = REDIS_WAIT_S - waited_s
                    sys.stderr.write(f"Waiting for Redis, for {left_s:.0f} s more at most: {error}\n")
            pause(TRY_AGAIN_EVERY_S)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except REDIS_ERRORS as error:
        raise RedisUnavailable(f"Redis did not answer: {error}") from error
