"""Which partitions there are: those that are agreed on, and all others that hold or held snapshots.

A producer of a version before the agreement, or one that has not heard of a change yet, puts snapshots where
its own number says. Workers drain those partitions too, so that nothing is ever left unserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from risk_producer.contract.keys import PARTITIONS_MAX, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_producer.transport.servers import AWAY, Question, ask


@dataclass(frozen=True, slots=True)
class InUse:
    """What one look at Redis shows of one namespace."""

    agreed: Partitioning | None
    """The newest copy, with the numbers of all others; None: there is none that can be read."""
    width: int
    """Workers share the partitions from 0 to width - 1: those of all numbers, and what is in use beyond."""
    entries: Mapping[int, int] = field(default_factory=dict)
    """partition -> entries that wait in it, where there are some."""
    copies: Mapping[int, Partitioning | None] = field(default_factory=dict)
    """partition -> its copy, of each that has one or is in use; None: it has none that can be read."""
    away: frozenset[int] = frozenset()
    """Partitions of which nothing is known, as their node of a cluster does not answer."""

    @property
    def uniform(self) -> bool:
        """Whether all partitions whose node answers have the same copy."""
        found = self.agreed
        if found is None:
            return False
        return all(self.copies.get(each) == found for each in {*range(found.width), *self.copies} - self.away)


@dataclass(frozen=True, slots=True)
class Streams:
    """What one look at Redis shows of all namespaces that a process serves."""

    keyspace: Keyspace
    found: tuple[InUse, ...]
    """By namespace."""

    @property
    def uniform(self) -> bool:
        """Whether in each namespace all partitions whose node answers have the same copy."""
        return all(each.uniform for each in self.found)

    @property
    def numbers(self) -> Sequence[int]:
        """Of all streams that workers share, see Keyspace."""
        if not self.keyspace.is_several:
            return range(self.found[0].width)
        return [
            number
            for one, seen in zip(self.keyspace.each, self.found, strict=True)
            for number in self._numbers(one, range(seen.width))
        ]

    @property
    def away(self) -> frozenset[int]:
        """The numbers of those of which nothing is known."""
        return frozenset(
            number
            for one, seen in zip(self.keyspace.each, self.found, strict=True)
            for number in self._numbers(one, seen.away)
        )

    @property
    def entries(self) -> dict[int, int]:
        """Number -> entries that wait, where there are some."""
        return {
            number: count
            for one, seen in zip(self.keyspace.each, self.found, strict=True)
            for number, count in zip(self._numbers(one, seen.entries), seen.entries.values(), strict=True)
        }

    @property
    def agreed(self) -> int | None:
        """By how many partitions traders are divided, in the namespace that has most; None: nothing is agreed
        on."""
        return max((each.agreed.partitions for each in self.found if each.agreed is not None), default=None)

    def caps(self, maxlen: int, wish: int) -> dict[int, int]:
        """Number -> entries that it may hold, of the streams that traders are divided into now.

        maxlen: RISK_STREAM_MAXLEN, of each namespace. wish: RISK_PARTITIONS.
        """
        caps: dict[int, int] = {}
        for one, seen in zip(self.keyspace.each, self.found, strict=True):
            partitions = wish if seen.agreed is None else seen.agreed.partitions
            caps |= dict.fromkeys(self._numbers(one, range(partitions)), -(-maxlen // partitions))
        return caps

    def _numbers(self, one: Keyspace, partitions: Iterable[int]) -> Iterator[int]:
        return (self.keyspace.number_of(one.keys(partition)) for partition in partitions)


def look_at_all(client: RedisClient, keyspace: Keyspace, wish: int) -> Streams:
    """look() at each namespace."""
    return Streams(keyspace, tuple(look(client, each, wish) for each in keyspace.each))


def look(client: RedisClient, keyspace: Keyspace, wish: int) -> InUse:
    """Look at all partitions that one namespace can have. wish: RISK_PARTITIONS, where nothing is agreed on.

    Raises one of REDIS_ERRORS where no server answers.
    """
    questions: list[Question] = []
    for number in range(PARTITIONS_MAX):
        keys = keyspace.keys(number)
        questions += [
            (keys.snapshots, ("XLEN", keys.snapshots)),
            (keys.snapshots, ("EXISTS", keys.admitted)),
            (keys.snapshots, ("GET", keys.partitioning)),
        ]
    answers = ask(client, questions)
    if all(isinstance(answer, REDIS_ERRORS) for answer in answers):
        raise answers[0]
    agreed: Partitioning | None = None
    entries: dict[int, int] = {}
    copies: dict[int, Partitioning | None] = {}
    used: list[int] = []
    away: set[int] = set()
    for number in range(PARTITIONS_MAX):
        length, admitted, raw = answers[3 * number : 3 * number + 3]
        if isinstance(raw, AWAY):
            away.add(number)
            continue
        if isinstance(length, int) and length:
            entries[number] = length
        copy = None if isinstance(raw, Exception) else Partitioning.read(raw)
        if copy is not None:
            agreed = copy if agreed is None else agreed.joined(copy)
        if number in entries or admitted == 1:
            used.append(number)
        if raw is not None or number in used[-1:]:
            copies[number] = copy
    width = wish if agreed is None else agreed.width
    return InUse(
        agreed, max([width, *(1 + number for number in used[-1:])]), entries, copies, frozenset(away)
    )


class Known:
    """What this process last saw. Written by one thread at a time."""

    def __init__(self) -> None:
        self._seen: Streams | None = None
        self.in_postgres = True
        """Whether Postgres knows the number too, as far as is known."""

    @property
    def seen(self) -> Streams | None:
        """The last look; None: there was none."""
        return self._seen

    def numbers(self, keyspace: Keyspace, wish: int) -> Sequence[int]:
        """Of the streams that workers share. wish: RISK_PARTITIONS, before the first look."""
        seen = self._seen
        return keyspace.numbers(wish) if seen is None or seen.keyspace != keyspace else seen.numbers

    def look(self, client: RedisClient, keyspace: Keyspace, wish: int) -> Streams:
        """Look again. Raises one of REDIS_ERRORS where no server answers.

        There are no fewer partitions for a node of a cluster that does not answer.
        """
        seen, before = look_at_all(client, keyspace, wish), self._seen
        if before is not None and before.keyspace == keyspace:
            seen = replace(seen, found=tuple(map(_no_narrower, seen.found, before.found)))
        self._seen = seen
        return seen


def _no_narrower(seen: InUse, before: InUse) -> InUse:
    return replace(seen, width=max(seen.width, before.width)) if seen.away else seen
