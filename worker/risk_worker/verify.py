"""`riskstream verify`: the books of the whole system.

accepted + foreign = stored + dead + conflated + in flight + no longer retained, where nothing is lost.

It may run while everything else runs. What moves, moves one way: accepted, then in the stream, then in the
database, and it leaves the stream only after it is in the database. So the accepted counts are read first,
then the streams, then the database: whatever was accepted by then is found in one of the two, or is lost.

Foreign is what no producer sent: entries of a stream that have no identity, or a seq beyond the last one that
Redis admitted for that trader and epoch, and dead letters of such entries.
"""

from __future__ import annotations

import contextlib
import re
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import monotonic, sleep
from typing import Any, Final, cast

import msgspec
import redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from risk_producer.connect import CertificateRefused, ServerTooOld, redis_client
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_producer.keys import Keys
from risk_producer.settings import Settings
from risk_producer.wire import FIELD, decode
from risk_worker import balance, progress
from risk_worker.balance import Books, Life, Range, fill, size, split
from risk_worker.stray import describe, stray

PAGE: Final = 1_000
SHOWN_MAX: Final = 50  # lines for a person; JSON has all
REDIS_WAIT_S: Final = 8.0
"""A Redis that restarts, or fails over, is waited for so long."""
SAY_AFTER_S: Final = 2.0
TRY_AGAIN_EVERY_S: Final = 0.2
NUMBER_LIMIT: Final = 2**53
"""Numbers in Redis are below it: Lua's do not tell whole numbers apart from there on."""


class BooksUnavailable(RiskError):
    """Redis could not be asked, so nothing can be said; the message says why."""


class TraderUnknown(RiskError):
    """Neither Redis nor Postgres knows of a snapshot of the trader that was asked for."""


@dataclass(frozen=True, slots=True)
class LifeBooks:
    """The books of one life: one epoch of a trader. All are numbers of snapshots."""

    trader_id: str
    epoch: int
    accepted: int
    stored: int
    dead: int
    conflated: int
    in_flight: int
    lost: int
    duplicates: int
    holes: Sequence[Range] = ()
    """The seq numbers that are lost."""
    not_retained: int = 0
    """What is gone from history and was recorded before the horizon."""
    foreign: int = 0
    """Dead letters and entries in its name that no producer sent; they count as dead or in flight."""

    @property
    def problems(self) -> Iterator[str]:
        """What is off, one sentence each."""
        whose = f"{self.trader_id}, epoch {self.epoch}"
        for hole in self.holes:
            yield f"{whose}: lost {_shown(hole)}"
        if self.duplicates:
            yield f"{whose}: {self.duplicates:,} stored twice"
        settled = self.stored + self.dead + self.conflated + self.in_flight + self.not_retained
        if self.accepted + self.foreign != settled + self.lost - self.duplicates:
            yield f"{whose}: {self.accepted:,} accepted, but {settled:,} accounted for"


_SUMS: Final = (
    *(
        "accepted",
        "foreign",
        "stored",
        "dead",
        "conflated",
        "in_flight",
        "not_retained",
        "lost",
        "duplicates",
    ),
)


@dataclass(frozen=True, slots=True)
class Report:
    """The books of the system, or of one trader."""

    lives: Sequence[LifeBooks]
    states_behind: Sequence[str]
    """Traders whose risk_state is not the newest of their history."""
    foreign_dead: int = 0
    foreign_in_flight: int = 0
    """Entries that came into the stream by another way than a producer, and say of no trader."""
    dead_but_stored: int = 0
    """Dead letters of what is stored all the same, and not counted as dead: a retry that did not finish."""
    partitions: int = 1
    stray: Mapping[int, int] = field(default_factory=dict)
    """partition -> entries in flight, of partitions beyond RISK_PARTITIONS: nobody will store them."""
    findings: Sequence[str] = ()
    """What else is wrong, a sentence each: what Redis holds and cannot be read, traders held back,
    partitions that are not drained."""
    retained_since: datetime | None = None
    """The horizon: what was recorded before it need not be in history any more."""

    @property
    def totals(self) -> dict[str, int]:
        """The sums, by the names that --json has."""
        sums = {name: sum(getattr(life, name) for life in self.lives) for name in _SUMS}
        sums["foreign"] += self.foreign_dead + self.foreign_in_flight
        sums["dead"] += self.foreign_dead
        sums["in_flight"] += self.foreign_in_flight
        return sums | {"state_behind": len(self.states_behind)}

    @property
    def balanced(self) -> bool:
        """Whether nothing is off."""
        return next(self._each_problem(), None) is None

    @property
    def problems(self) -> list[str]:
        """What is off, one sentence each; empty: the books balance."""
        return list(self._each_problem())

    def _each_problem(self) -> Iterator[str]:
        for life in self.lives:
            yield from life.problems
        yield from (f"{trader}: risk_state is not the newest of its history" for trader in self.states_behind)
        if self.stray:
            yield describe(self.stray, self.partitions)
        yield from self.findings

    def as_json(self) -> Iterator[str]:
        """One object in pieces: the sums, then what is off in detail."""
        first = self.totals | {
            "balanced": self.balanced,
            "dead_but_stored": self.dead_but_stored,
            "lives": len(self.lives),
            "retained_since": self.retained_since,
        }
        yield msgspec.json.format(msgspec.json.encode(first)).decode().removesuffix("\n}")
        holes = (
            {"trader_id": life.trader_id, "epoch": life.epoch, "from": first, "to": last}
            for life in self.lives
            for first, last in life.holes
        )
        repeated = (
            {"trader_id": life.trader_id, "epoch": life.epoch, "duplicates": life.duplicates}
            for life in self.lives
            if life.duplicates
        )
        waiting = (
            {"partition": partition, "in_flight": count} for partition, count in sorted(self.stray.items())
        )
        yield from _json_list("holes", holes)
        yield from _json_list("repeated", repeated)
        yield from _json_list("states_behind", self.states_behind)
        yield from _json_list("stray", waiting)
        yield from _json_list("findings", self.findings)
        yield "\n}"

    def as_text(self, *, each_life: bool) -> str:
        """For a person. each_life: with a line for each of the newest lives, not only what is off."""
        lines = [f"{name.replace('_', ' '):<13}{count:>15,}" for name, count in self.totals.items()]
        if self.totals["foreign"]:
            lines.append("Foreign is what came into the stream by another way than a producer.")
        if self.dead_but_stored:
            lines.append(
                f"{self.dead_but_stored:,} dead letters are stored all the same; a retry removes them."
            )
        if self.retained_since is not None:
            since = self.retained_since.astimezone(UTC)
            lines.append(
                f"History is retained since {since:%Y-%m-%dT%H:%M:%SZ}; what was before is not lost."
            )
        if each_life:
            older = len(self.lives) - SHOWN_MAX
            if older > 0:
                lines.append(f"{older:,} older epochs are not shown.")
            lines += [
                f"{life.trader_id}, epoch {life.epoch}: {life.accepted:,} accepted, {life.stored:,} stored, "
                f"{life.dead:,} dead, {life.conflated:,} conflated, {life.in_flight:,} in flight"
                for life in self.lives[-SHOWN_MAX:]
            ]
        problems = self._each_problem()
        shown = list(islice(problems, SHOWN_MAX))
        more = sum(1 for _ in problems)
        lines += [f"✗ {problem}" for problem in shown]
        if more:
            lines.append(f"✗ and {more:,} more; --json has all")
        lines.append("✗ The books do not balance." if shown else "✓ The books balance.")
        return "\n".join(lines)


def _json_list(name: str, items: Iterable[object]) -> Iterator[str]:
    """A member of the object, its list in pieces."""
    yield f',\n  "{name}": ['
    separator = "\n    "
    for item in items:
        yield separator + msgspec.json.format(msgspec.json.encode(item), indent=0).decode()
        separator = ",\n    "
    yield "]"


def verify(
    settings: Settings, trader: str | None = None, retained_since: datetime | timedelta | None = None
) -> Report:
    """Read the books, of one trader or of all. What seems lost is looked for once more.

    retained_since: what was recorded before it, or longer ago, need not be in history any more.
    Raises BooksUnavailable, TraderUnknown, DatabaseTrouble, ConfigurationError, or MigrationError.
    """
    database_url = settings.require_database_url()
    horizon = datetime.now(UTC) - retained_since if isinstance(retained_since, timedelta) else retained_since
    redis_url = settings.require_redis_url()
    with (
        _explained(),
        redis_client(redis_url, answer_timeout_s=30, connect_timeout_s=5, retries=10) as client,
    ):
        _wait_for_redis(redis_url)
        report = look(client, database_url, settings.partitions, trader, horizon)
        missing = {(life.trader_id, life.epoch): life.holes for life in report.lives if life.holes}
        if missing and _turned_up(client, database_url, settings.partitions, missing, trader):
            report = look(client, database_url, settings.partitions, trader, horizon)
    if trader is not None and not report.lives and not report.states_behind and not report.findings:
        raise TraderUnknown(f"neither Redis nor Postgres knows of a snapshot of {trader!r}")
    return report


def look(
    client: redis.Redis,
    database_url: str,
    partitions: int,
    trader: str | None = None,
    horizon: datetime | None = None,
) -> Report:
    """One look at everything, in the order that makes it safe. Raises RedisError, and what read() does."""
    admitted = _Admitted(client, partitions, trader)
    waiting = _Waiting(client, admitted.streams, trader)
    foreign = waiting.take_foreign(admitted)
    books = balance.read(database_url, trader, admitted=admitted.now, horizon=horizon)
    report = assess(admitted.lives, waiting.lives, books, waiting.foreign, foreign)
    beyond = {partition: count for partition, count in waiting.found.items() if partition >= partitions}
    findings = [*admitted.findings, *waiting.findings, *progress.problems(client, partitions)]
    return replace(report, partitions=partitions, stray=beyond, findings=findings)


def assess(
    admitted: Mapping[Life, int],
    waiting: Mapping[Life, Iterable[Range]],
    books: Books,
    foreign: int = 0,
    foreign_of: Mapping[Life, int] | None = None,
) -> Report:
    """Put together what was read.

    admitted: the last seq that Redis admitted. waiting: (first, last) seq of each entry in a stream; what
    the database has too is not in flight any more. foreign: entries in a stream that are no snapshots.
    foreign_of: entries in a stream in the name of a life that no producer sent.
    """
    foreign_of = foreign_of or {}
    lives = []
    known = admitted.keys() | waiting.keys() | books.lives.keys() | foreign_of.keys()
    following: Life | None = None
    for life in sorted(known, reverse=True):
        account = books.account(life)
        entries = list(waiting.get(life, ()))
        accepted = max(admitted.get(life, 0), account.highest, *(last for _, last in entries), 0)
        tail = [(account.highest + 1, accepted)] if accepted > account.highest else []
        left, in_flight, filled = fill([*account.holes, *tail], entries)
        holes, gone = split(left, _expired(life, accepted, books, following))
        in_its_name = foreign_of.get(life, 0)
        lives.append(
            LifeBooks(
                trader_id=life[0],
                epoch=life[1],
                accepted=accepted,
                stored=account.stored,
                dead=account.dead + account.foreign,
                conflated=account.conflated + filled - in_flight,
                in_flight=in_flight + in_its_name,
                lost=size(holes),
                duplicates=account.repeated,
                holes=holes,
                not_retained=size(gone),
                foreign=account.foreign + in_its_name,
            )
        )
        following = life
    lives.reverse()
    return Report(
        lives,
        books.stale,
        books.unidentified,
        foreign,
        books.dead_but_stored,
        retained_since=books.horizon,
    )


def _expired(life: Life, accepted: int, books: Books, following: Life | None) -> list[Range]:
    """The seq numbers of a life that were recorded before the horizon, as far as that can be known."""
    account = books.account(life)
    expired = list(account.expired)
    if books.horizon is None:
        return expired
    trader_id, epoch = life
    state = books.states.get(trader_id)
    ended: float | None = None  # seconds since 1970
    if state is not None and state.epoch == epoch and state.seq >= accepted:
        ended = state.recorded_at.timestamp()
    elif following is not None and following[0] == trader_id:
        ended = following[1] / 1000  # an epoch is the time at which it was given out, in ms
    if ended is not None and ended < books.horizon.timestamp():
        expired.append((account.highest_row + 1, accepted))
    return expired


def _turned_up(
    client: redis.Redis,
    database_url: str,
    partitions: int,
    missing: Mapping[Life, Sequence[Range]],
    trader: str | None,
) -> bool:
    """Whether any of what was missing is in a stream or the database by now."""
    waiting = _Waiting(client, _streams(client, partitions), trader).lives
    return any(balance.touches(missing[life], waiting[life]) for life in missing.keys() & waiting.keys()) or (
        balance.turned_up(database_url, missing, trader)
    )


class _Admitted:
    """What Redis admitted of each life, and what it holds about traders that cannot be read."""

    def __init__(self, client: redis.Redis, partitions: int, trader: str | None) -> None:
        self._client = client
        self.streams = _streams(client, partitions)
        self.lives: dict[Life, int] = {}
        self.findings: list[str] = []
        self._unreadable: set[Life] = set()
        self._wrong_keys = False
        for keys in self.streams:
            for name, value in self._fields(keys.admitted):
                self._add(keys.admitted, name, value, trader)
            for name, value in self._fields(keys.epochs):
                if trader is None or name == trader.encode(errors="surrogateescape"):
                    self._check_epoch(keys.epochs, name, value)
            for name, value in self._fields(f"risk:{{{keys.partition}}}:behind"):
                if trader is None or name == trader.encode(errors="surrogateescape"):
                    whose = _text(name)
                    self.findings.append(
                        f"{whose}: Redis lost data, and which of its snapshots is the newest is not certain "
                        f"({keys.snapshots.replace('snapshots', 'behind')} has {_text(value)}); "
                        f"run riskstream repair {whose}"
                    )

    def now(self, lives: Sequence[Life]) -> list[int | None]:
        """The last seq that was admitted by now; 0: the life is not known; None: it cannot be told."""
        found: dict[Life, int | None] = {}
        for keys in self.streams:
            names = [f"{epoch}:{trader_id}" for trader_id, epoch in lives]
            for first in range(0, len(names), PAGE):
                page = names[first : first + PAGE]
                try:
                    values = cast(list[bytes | None], self._client.hmget(keys.admitted, page))
                except ResponseError:
                    return [None] * len(lives)  # a finding says so
                for life, value in zip(lives[first:], values, strict=False):
                    if value is not None:
                        number = _number(value)
                        known = found.get(life, 0)
                        found[life] = None if number is None or known is None else max(number, known)
        return [found.get(life, 0) for life in lives]

    def _add(self, key: str, name: bytes, value: bytes, trader: str | None) -> None:
        if not name:
            return  # no life, see keys
        epoch_text, colon, whose = name.partition(b":")
        if trader is not None and whose != trader.encode(errors="surrogateescape"):
            return
        epoch, last_seq = _number(epoch_text), _number(value)
        try:
            trader_id = whose.decode()
        except UnicodeDecodeError:
            trader_id = ""
        if epoch is None or not colon or not trader_id:
            self.findings.append(
                f"{key}: the field {_text(name)} names no epoch and trader; remove it with HDEL"
            )
        elif last_seq is None:
            self.findings.append(_unreadable(key, name, value, trader_id))
        else:
            life = (trader_id, epoch)
            self.lives[life] = max(last_seq, self.lives.get(life, 0))

    def _check_epoch(self, key: str, name: bytes, value: bytes) -> None:
        if name and _number(value) is None:
            self.findings.append(_unreadable(key, name, value, name.decode(errors="backslashreplace")))

    def _fields(self, key: str) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from cast(Iterator[tuple[bytes, bytes]], self._client.hscan_iter(key, count=PAGE))
        except ResponseError as error:
            self.findings.append(_wrong_type(self._client, key, "hash", error))


class _Waiting:
    """What is in the streams: life -> the seq numbers that each entry stands for."""

    def __init__(self, client: redis.Redis, streams: Sequence[Keys], trader: str | None) -> None:
        self.foreign = 0
        self.found: Counter[int] = Counter()
        """partition -> entries, of the trader or of all."""
        self.findings: list[str] = []
        self._pairs: dict[Life, array[int]] = defaultdict(lambda: array("q"))
        for keys in streams:
            try:
                for fields in _entries(client, keys.snapshots):
                    if self._add(fields, trader):
                        self.found[keys.partition] += 1
            except ResponseError as error:
                self.findings.append(_wrong_type(client, keys.snapshots, "stream", error))

    @property
    def lives(self) -> dict[Life, Iterable[Range]]:
        return {life: zip(pairs[0::2], pairs[1::2], strict=True) for life, pairs in self._pairs.items()}

    def take_foreign(self, admitted: _Admitted) -> dict[Life, int]:
        """Take out the entries whose seq was never admitted. Returns how many, by life."""
        beyond = [
            life for life, pairs in self._pairs.items() if max(pairs[1::2]) > admitted.lives.get(life, 0)
        ]
        foreign: dict[Life, int] = {}
        for life, highest in zip(beyond, admitted.now(beyond), strict=True):
            if highest is None:
                continue
            kept = array("q")
            for first, last in zip(self._pairs[life][0::2], self._pairs[life][1::2], strict=True):
                if last <= highest:
                    kept.extend((first, last))
            if len(kept) < len(self._pairs[life]):
                foreign[life] = (len(self._pairs[life]) - len(kept)) // 2
                self._pairs[life] = kept
            if not kept:
                del self._pairs[life]
        return foreign

    def _add(self, fields: Mapping[bytes, bytes], trader: str | None) -> bool:
        """Returns whether the entry is one of those that were asked for."""
        try:
            if fields.keys() != {FIELD}:
                raise InvalidSnapshot("a foreign entry")
            snapshot = decode(fields[FIELD])
        except InvalidSnapshot:
            self.foreign += trader is None
            return trader is None
        if trader is not None and snapshot.trader_id != trader:
            return False
        pair = (snapshot.seq - snapshot.merged, snapshot.seq)
        self._pairs[snapshot.trader_id, snapshot.epoch].extend(pair)
        return True


def _number(value: bytes) -> int | None:
    """A whole number of those that Redis may hold; None: it is none."""
    if not value.isdigit() or len(value) > 16:
        return None
    number = int(value)
    return number if number < NUMBER_LIMIT else None


def _unreadable(key: str, name: bytes, value: bytes, trader_id: str) -> str:
    return (
        f"{key}, field {_text(name)}: {_text(value)} is no number that can be counted with; "
        f"run riskstream repair {trader_id}"
    )


def _wrong_type(client: redis.Redis, key: str, wanted: str, error: ResponseError) -> str:
    if not str(error).startswith("WRONGTYPE"):
        raise error
    found = client.type(key)
    kind = found.decode() if isinstance(found, bytes) else str(found)
    return f"{key} holds a {kind} where a {wanted} is expected; riskstream repair puts it aside"


def _text(value: bytes) -> str:
    """For a message: printable, and not too long."""
    text = value[:200].decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _streams(client: redis.Redis, partitions: int) -> list[Keys]:
    """Of the partitions that are configured, and of any others in which something is or was."""
    numbers = {*range(partitions), *stray(client, partitions)}
    for key in client.scan_iter(match="risk:{*}:admitted", count=PAGE):
        if found := re.fullmatch(rb"risk:\{(\d{1,3})\}:admitted", key):
            numbers.add(int(found[1]))
    return [Keys(number) for number in sorted(numbers)]


def _entries(client: redis.Redis, stream: str) -> Iterator[Mapping[bytes, bytes]]:
    """The fields of each entry that the stream has by now, a page at a time."""
    newest = cast(list[Any], client.xrevrange(stream, count=1))
    if not newest:
        return
    after, end = "-", newest[0][0].decode()  # traders may add quicker than this reads
    while True:
        page = cast(list[Any], client.xrange(stream, min=after, max=end, count=PAGE))
        for _, fields in page:
            yield fields
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def _wait_for_redis(
    redis_url: str,
    clock: Callable[[], float] = monotonic,
    pause: Callable[[float], None] = sleep,
) -> None:
    """Return once Redis takes a connection; after SAY_AFTER_S, stderr says what is waited for, and how long.

    Raises RedisError after REDIS_WAIT_S, and at once where waiting does not help.
    """
    began, said = clock(), False
    with redis_client(redis_url, answer_timeout_s=5, connect_timeout_s=5) as client:
        while True:
            try:
                client.connection_pool.get_connection().disconnect()
                return
            except (AuthenticationError, CertificateRefused, ServerTooOld):
                raise
            except RedisConnectionError as error:
                waited_s = clock() - began
                if waited_s >= REDIS_WAIT_S:
                    raise
                if waited_s >= SAY_AFTER_S and not said:
                    said = True
                    left_s = REDIS_WAIT_S - waited_s
                    sys.stderr.write(f"Waiting for Redis, for {left_s:.0f} s more at most: {error}\n")
            pause(TRY_AGAIN_EVERY_S)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise BooksUnavailable(f"Redis did not answer: {error}") from error


def _shown(hole: Range) -> str:
    first, last = hole
    return f"seq {first}" if first == last else f"seq {first} to {last} ({last - first + 1:,})"
