"""What goes wrong, and when. All of it comes from the seed: the same seed makes the same schedule."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

WARM_UP_S: Final = 3.0
APART_S: Final = 2.5
"""Seconds between two faults, on average."""
REST_S: Final = 6.0
"""Seconds from the end of a fault to the next one, where they come in turn."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    targets: tuple[str, ...]
    """What it may hit; nothing is hit twice at a time."""
    least_s: float = 0.0
    most_s: float = 0.0
    """How long it lasts."""
    weight: int = 2


WORKERS: Final = ("worker-0", "worker-1")
PRODUCERS: Final = ("producer-0", "producer-1", "producer-2")
LINKS: Final = ("worker-redis", "worker-postgres", "producer-redis")

KINDS: Final = (
    Kind("kill -9", WORKERS, 0, 4, 6),
    Kind("kill -9 amid a batch", WORKERS, 0, 4, 4),
    Kind("terminate", WORKERS, 0, 4, 3),
    Kind("terminate twice", WORKERS, 0, 3, 1),
    Kind("freeze", WORKERS, 1, 20, 4),
    Kind("kill -9", ("postgres",), 0, 4, 4),
    Kind("restart", ("postgres",), 0, 4, 2),
    Kind("freeze", ("postgres",), 1, 8, 2),
    Kind("terminate backends", ("postgres",), 0, 0, 4),
    Kind("lock history", ("postgres",), 1, 13, 2),
    Kind("lock a state row", ("postgres",), 1, 13, 2),
    Kind("read-only", ("postgres",), 1, 5, 1),
    Kind("kill -9", ("redis",), 0, 4, 4),
    Kind("restart", ("redis",), 0, 4, 2),
    Kind("freeze", ("redis",), 1, 8, 2),
    Kind("out of memory", ("redis",), 1, 5, 1),
    Kind("cut", LINKS, 0, 0, 4),
    Kind("half-close", LINKS, 0, 0, 1),
    Kind("hold", LINKS, 1, 12, 2),
    Kind("lose answers", LINKS, 0.1, 3, 4),
    Kind("slow", LINKS, 2, 6, 1),
    Kind("kill -9", PRODUCERS, 0, 3, 4),
    Kind("zombie", PRODUCERS, 1, 6, 2),
    Kind("poison by hand", ("stream",), 0, 0, 4),
    Kind("copy by hand", ("stream",), 0, 0, 2),
    Kind("retry the dead", ("operator",), 0, 0, 1),
    Kind("verify", ("operator",), 0, 0, 3),
    Kind("calm", ("nothing",), 4, 8, 1),
    Kind("values", PRODUCERS, 2, 8, 2),
    Kind("clocks", (*WORKERS, *PRODUCERS), 2, 8, 2),
    Kind("foreign entries", ("stream",), 0, 0, 2),
    Kind("foreign counters", ("fields",), 0, 0, 1),
    Kind("foreign fields", ("fields",), 1, 5, 2),
    Kind("maxmemory", ("redis",), 1, 6, 1),
    Kind("READONLY", ("redis",), 1, 6, 2),
)
"""Of the system with one Redis."""
COMMON: Final = tuple(kind for kind in KINDS if kind.targets not in (("redis",), LINKS))
"""Of workers, producers, Postgres and what is in Redis: with every engine."""


def of_links(links: tuple[str, ...]) -> tuple[Kind, ...]:
    """What may happen to links."""
    return tuple(replace(kind, targets=links) for kind in KINDS if kind.targets == LINKS)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: it begins at_s seconds after the start, and is undone lasts_s later."""

    at_s: float
    kind: str
    target: str
    lasts_s: float
    number: int
    """A number of its own from the seed, for what it has to choose."""

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:6.1f} s  {self.target}: {self.kind}{lasts}"


def schedule(
    seed: int,
    seconds: float,
    names: Collection[str] = (),
    *,
    kinds: Collection[Kind] = KINDS,
    in_turn: bool = False,
) -> list[Fault]:
    """The faults of a run, in order. All are undone by its end.

    names: of kinds; none: all. in_turn: one fault begins when the one before is over.
    """
    chance = random.Random(seed)
    chosen = [each for each in kinds if not names or each.name in names]
    faults: list[Fault] = []
    busy_until: dict[str, float] = {}
    at_s = WARM_UP_S
    while at_s < seconds:
        kind = chance.choices(chosen, [each.weight for each in chosen])[0]
        target = chance.choice(kind.targets)
        lasts_s = min(chance.uniform(kind.least_s, kind.most_s), seconds - at_s)
        number = chance.randrange(2**31)
        if busy_until.get(target, 0) > at_s:
            at_s += 0.1  # or, with few kinds, a target may be busy for ever
            continue
        faults.append(Fault(round(at_s, 2), kind.name, target, round(lasts_s, 2), number))
        busy_until[target] = at_s + lasts_s + 1
        if kind.name == "calm":
            at_s += lasts_s
        elif in_turn:
            at_s += lasts_s + REST_S
        else:
            at_s += chance.expovariate(1 / APART_S)
    return faults
