"""`riskstream verify`: the books of the whole system. accepted = stored + dead + conflated + in flight.

It may run while everything else runs. What moves, moves one way: accepted, then in the stream, then in the
database, and it leaves the stream only after it is in the database. So the accepted counts are read first,
then the streams, then the database: whatever was accepted by then is found in one of the two, or is lost.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import msgspec
import psycopg
import redis
from redis.exceptions import RedisError

from risk_producer.connect import redis_client
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_producer.keys import Keys
from risk_producer.settings import Settings
from risk_producer.wire import FIELD, decode
from risk_worker import balance, progress
from risk_worker.balance import Books, Life, Range, fill, size
from risk_worker.sqlstate import judge, sqlstate_of
from risk_worker.stray import describe, stray

PAGE: Final = 1_000
SHOWN_MAX: Final = 50  # lines for a person; JSON has all


class BooksUnavailable(RiskError):
    """Redis or Postgres could not be asked, so nothing can be said; the message says why."""


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

    @property
    def problems(self) -> list[str]:
        """What is off, one sentence each."""
        whose = f"{self.trader_id}, epoch {self.epoch}"
        found = [f"{whose}: lost {_shown(hole)}" for hole in self.holes]
        if self.duplicates:
            found.append(f"{whose}: {self.duplicates:,} stored twice")
        settled = self.stored + self.dead + self.conflated + self.in_flight
        if self.accepted != settled + self.lost - self.duplicates:
            found.append(f"{whose}: {self.accepted:,} accepted, but {settled:,} accounted for")
        return found


@dataclass(frozen=True, slots=True)
class Report:
    """The books of the system, or of one trader."""

    lives: Sequence[LifeBooks]
    states_behind: Sequence[str]
    """Traders whose risk_state is not the newest of their history."""
    foreign_dead: int = 0
    foreign_in_flight: int = 0
    """Entries that came into the stream by another way than a producer; what arrived counts as accepted."""
    dead_but_stored: int = 0
    """Dead letters of what is stored all the same, and not counted as dead: a retry that did not finish."""
    partitions: int = 1
    stray: Mapping[int, int] = field(default_factory=dict)
    """partition -> entries in flight, of partitions beyond RISK_PARTITIONS: nobody will store them."""
    stalled: Sequence[str] = ()
    """A sentence for each partition that is not drained."""

    @property
    def totals(self) -> dict[str, int]:
        """The sums, by the names that --json has."""
        sums = {
            name: sum(getattr(life, name) for life in self.lives)
            for name in ("accepted", "stored", "dead", "conflated", "in_flight", "lost", "duplicates")
        }
        sums["accepted"] += self.foreign_dead + self.foreign_in_flight
        sums["dead"] += self.foreign_dead
        sums["in_flight"] += self.foreign_in_flight
        return sums | {"state_behind": len(self.states_behind)}

    @property
    def problems(self) -> list[str]:
        """What is off, one sentence each; empty: the books balance."""
        found = [problem for life in self.lives for problem in life.problems]
        found += [f"{trader}: risk_state is not the newest of its history" for trader in self.states_behind]
        if self.stray:
            found.append(describe(self.stray, self.partitions))
        return [*found, *self.stalled]

    def as_json(self) -> str:
        """One object: the sums, then what is off in detail."""
        detail = {
            "balanced": not self.problems,
            "foreign": self.foreign_dead + self.foreign_in_flight,
            "dead_but_stored": self.dead_but_stored,
            "lives": len(self.lives),
            "holes": [
                {"trader_id": life.trader_id, "epoch": life.epoch, "from": first, "to": last}
                for life in self.lives
                for first, last in life.holes
            ],
            "repeated": [
                {"trader_id": life.trader_id, "epoch": life.epoch, "duplicates": life.duplicates}
                for life in self.lives
                if life.duplicates
            ],
            "states_behind": list(self.states_behind),
            "stalled": list(self.stalled),
            "stray": [
                {"partition": partition, "in_flight": count}
                for partition, count in sorted(self.stray.items())
            ],
        }
        return msgspec.json.format(msgspec.json.encode(self.totals | detail)).decode()

    def as_text(self, *, each_life: bool) -> str:
        """For a person. each_life: with a line for each life, not only what is off."""
        lines = [f"{name.replace('_', ' '):<13}{count:>15,}" for name, count in self.totals.items()]
        if foreign := self.foreign_dead + self.foreign_in_flight:
            lines.append(f"{foreign:,} of them came into the stream by another way than a producer.")
        if self.dead_but_stored:
            lines.append(
                f"{self.dead_but_stored:,} dead letters are stored all the same; a retry removes them."
            )
        if each_life:
            lines += [
                f"{life.trader_id}, epoch {life.epoch}: {life.accepted:,} accepted, {life.stored:,} stored, "
                f"{life.dead:,} dead, {life.conflated:,} conflated, {life.in_flight:,} in flight"
                for life in self.lives
            ]
        problems = self.problems
        lines += [f"✗ {problem}" for problem in problems[:SHOWN_MAX]]
        if len(problems) > SHOWN_MAX:
            lines.append(f"✗ and {len(problems) - SHOWN_MAX:,} more; --json has all")
        lines.append("✗ The books do not balance." if problems else "✓ The books balance.")
        return "\n".join(lines)


def verify(settings: Settings, trader: str | None = None) -> Report:
    """Read the books, of one trader or of all. What seems lost is looked at twice.

    Raises BooksUnavailable, TraderUnknown, or ConfigurationError.
    """
    database_url = settings.require_database_url()
    with (
        _explained(),
        redis_client(
            settings.require_redis_url(), answer_timeout_s=30, connect_timeout_s=5, retries=10
        ) as client,
    ):
        report = look(client, database_url, settings.partitions, trader)
        if any(life.lost for life in report.lives):
            report = look(client, database_url, settings.partitions, trader)
    if trader is not None and not report.lives and not report.states_behind:
        raise TraderUnknown(f"neither Redis nor Postgres knows of a snapshot of {trader!r}")
    return report


def look(client: redis.Redis, database_url: str, partitions: int, trader: str | None = None) -> Report:
    """One look at everything, in the order that makes it safe. Raises RedisError or psycopg.Error."""
    streams = _streams(client, partitions)
    admitted = _admitted(client, streams, trader)
    waiting = _Waiting(client, streams, trader)
    report = assess(admitted, waiting.lives, balance.read(database_url, trader), waiting.foreign)
    beyond = {partition: count for partition, count in waiting.found.items() if partition >= partitions}
    stalled = progress.problems(client, partitions)
    return replace(report, partitions=partitions, stray=beyond, stalled=stalled)


def assess(
    admitted: Mapping[Life, int], waiting: Mapping[Life, Iterable[Range]], books: Books, foreign: int = 0
) -> Report:
    """Put together what was read.

    admitted: the last seq that Redis admitted. waiting: (first, last) seq of each entry in a stream; what
    the database has too is not in flight any more. foreign: entries in a stream that are no snapshots.
    """
    lives = []
    for life in sorted(admitted.keys() | waiting.keys() | books.lives.keys()):
        account = books.account(life)
        entries = list(waiting.get(life, ()))
        accepted = max(admitted.get(life, 0), account.highest, *(last for _, last in entries), 0)
        tail = [(account.highest + 1, accepted)] if accepted > account.highest else []
        holes, in_flight, filled = fill([*account.holes, *tail], entries)
        lives.append(
            LifeBooks(
                trader_id=life[0],
                epoch=life[1],
                accepted=accepted,
                stored=account.stored,
                dead=account.dead,
                conflated=account.conflated + filled - in_flight,
                in_flight=in_flight,
                lost=size(holes),
                duplicates=account.repeated,
                holes=holes,
            )
        )
    return Report(lives, books.stale, books.dead_of_nobody, foreign, books.dead_but_stored)


class _Waiting:
    """What is in the streams: life -> the seq numbers that each entry stands for."""

    def __init__(self, client: redis.Redis, streams: Sequence[Keys], trader: str | None) -> None:
        self.foreign = 0
        self.found: Counter[int] = Counter()
        """partition -> entries, of the trader or of all."""
        self._pairs: dict[Life, array[int]] = defaultdict(lambda: array("q"))
        for keys in streams:
            for fields in _entries(client, keys.snapshots):
                if self._add(fields, trader):
                    self.found[keys.partition] += 1

    @property
    def lives(self) -> dict[Life, Iterable[Range]]:
        return {life: zip(pairs[0::2], pairs[1::2], strict=True) for life, pairs in self._pairs.items()}

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


def _streams(client: redis.Redis, partitions: int) -> list[Keys]:
    """Of the partitions that are configured, and of any others in which something is or was."""
    numbers = {*range(partitions), *stray(client, partitions)}
    for key in client.scan_iter(match="risk:{*}:admitted", count=PAGE):
        if found := re.fullmatch(rb"risk:\{(\d{1,3})\}:admitted", key):
            numbers.add(int(found[1]))
    return [Keys(number) for number in sorted(numbers)]


def _admitted(client: redis.Redis, streams: Sequence[Keys], trader: str | None) -> dict[Life, int]:
    admitted: dict[Life, int] = {}
    for keys in streams:
        for name, last_seq in client.hscan_iter(keys.admitted, count=PAGE):
            if not name:
                continue  # no life, see keys
            epoch, _, trader_id = name.decode().partition(":")
            if trader is None or trader_id == trader:
                life = (trader_id, int(epoch))
                admitted[life] = max(int(last_seq), admitted.get(life, 0))
    return admitted


def _entries(client: redis.Redis, stream: str) -> Iterator[Mapping[bytes, bytes]]:
    """The fields of each entry from the stream's beginning to its end, a page at a time."""
    after = "-"
    while True:
        page = cast(list[Any], client.xrange(stream, min=after, count=PAGE))
        for _, fields in page:
            yield fields
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise BooksUnavailable(f"Redis did not answer: {error}") from error
    except psycopg.Error as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        _, why = judge(error.sqlstate or sqlstate_of(str(error)))
        raise BooksUnavailable(f"the database: {first_line} ({why})") from error


def _shown(hole: Range) -> str:
    first, last = hole
    return f"seq {first}" if first == last else f"seq {first} to {last} ({last - first + 1:,})"
