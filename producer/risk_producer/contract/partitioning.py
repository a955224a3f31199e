"""How many partitions a deployment has: agreed on in Redis, so that no environment has to agree with another.

Every partition keeps a copy of the same text, ``version:partitions,other,...``, beside its stream, because a
script on a Redis Cluster sees the keys of one slot alone. The copy of partition 0 is the first one: the
producer or worker that comes to a Redis without it writes what its RISK_PARTITIONS says. Of two texts the one
with the greater version counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from risk_producer.contract.keys import PARTITIONS_MAX, partition_of

_TEXT: Final = re.compile(r"([0-9]{1,9}):([0-9]{1,3}(?:,[0-9]{1,3}){0,255})")


@dataclass(frozen=True, slots=True)
class Partitioning:
    """The number of partitions, and other numbers that traders may still be divided by."""

    version: int
    """Grows by one with each change; 0: nothing is agreed on yet, as far as is known."""
    partitions: int
    """What traders are divided by now."""
    others: tuple[int, ...] = ()
    """Former numbers, or the one that comes next: load() asks there too, and workers look there."""

    @classmethod
    def wished(cls, partitions: int) -> Partitioning:
        """What RISK_PARTITIONS says, before anything is agreed on."""
        return cls(0, partitions)

    @classmethod
    def read(cls, raw: bytes | str | None) -> Partitioning | None:
        """What a copy holds; None: there is none, or it cannot be read."""
        text = raw.decode("latin-1") if isinstance(raw, bytes) else raw or ""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        partitions, *others = (int(number) for number in found[2].split(","))
        distinct = len({partitions, *others}) == 1 + len(others)
        if int(found[1]) == 0 or not distinct:
            return None
        if not all(1 <= number <= PARTITIONS_MAX for number in (partitions, *others)):
            return None
        return cls(int(found[1]), partitions, tuple(others))

    @property
    def text(self) -> str:
        """As it stands in Redis."""
        return f"{self.version}:{','.join(map(str, self.numbers))}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """All numbers, the one in force first."""
        return (self.partitions, *self.others)

    @property
    def width(self) -> int:
        """The greatest of all numbers: traders are, were or will be divided among partitions below it."""
        return max(self.numbers)

    def is_newer_than(self, other: Partitioning) -> bool:
        """Whether this one counts, and not the other."""
        return self.version > other.version

    def places(self, trader_id: str) -> tuple[int, ...]:
        """The partitions where something of a trader may be; the first one is where it is sent now."""
        return tuple(dict.fromkeys(partition_of(trader_id, number) for number in self.numbers))

    def first(self) -> Partitioning:
        """This number as the first agreement."""
        return Partitioning(1, self.partitions)

    def announced(self, partitions: int) -> Partitioning:
        """The same number in force, and another one that comes next."""
        return Partitioning(self.version + 1, self.partitions, self._without(self.partitions, partitions))

    def changed(self, partitions: int) -> Partitioning:
        """Another number in force."""
        return Partitioning(self.version + 1, partitions, self._without(partitions, self.partitions))

    def joined(self, other: Partitioning) -> Partitioning:
        """The newer of both, with all numbers of both."""
        newer, older = (self, other) if self.version >= other.version else (other, self)
        missing = tuple(number for number in older.numbers if number not in newer.numbers)
        if not missing:
            return newer
        return Partitioning(newer.version + 1, newer.partitions, (*newer.others, *missing))

    def _without(self, partitions: int, first: int) -> tuple[int, ...]:
        """The other numbers, `first` before them, and never `partitions`."""
        return tuple(number for number in dict.fromkeys((first, *self.others)) if number != partitions)
