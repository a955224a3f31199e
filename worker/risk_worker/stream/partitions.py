"""Which partitions there are: those that are agreed on, and all others that hold or held snapshots.

A producer of a version before the agreement, or one that has not heard of a change yet, puts snapshots where
its own number says. Workers drain those partitions too, so that nothing is ever left unserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from risk_producer.contract.keys import PARTITIONS_MAX, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_producer.transport.servers import AWAY, Question, ask


@dataclass(frozen=True, slots=True)
class InUse:
    """What one look at Redis shows."""

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


def look(client: RedisClient, keyspace: Keyspace, wish: int) -> InUse:
    """Look at all partitions there can be. wish: RISK_PARTITIONS, where nothing is agreed on.

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
        self._seen: InUse | None = None
        self.in_postgres = True
        """Whether Postgres knows the number too, as far as is known."""

    @property
    def seen(self) -> InUse | None:
        """The last look; None: there was none."""
        return self._seen

    def width(self, wish: int) -> int:
        """How many partitions workers share. wish: RISK_PARTITIONS, before the first look."""
        return wish if self._seen is None else self._seen.width

    def look(self, client: RedisClient, keyspace: Keyspace, wish: int) -> InUse:
        """Look again. Raises one of REDIS_ERRORS where no server answers.

        There are no fewer partitions for a node of a cluster that does not answer.
        """
        seen = look(client, keyspace, wish)
        if seen.away and self._seen is not None:
            seen = replace(seen, width=max(seen.width, self._seen.width))
        self._seen = seen
        return seen
