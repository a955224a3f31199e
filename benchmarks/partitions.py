"""How long a snapshot waits in 1 and in 16 partitions, and while the shares of 16 change:

    python -m benchmarks.partitions [--seconds 40] [--rate 200] [--traders 160]

With 1, 2 and 4 workers; then while a partition cannot be read, while a second worker joins, and while one of
two dies on another host. At higher rates, and as quickly as it goes: benchmarks/growth.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep

from prometheus_client import CollectorRegistry

from benchmarks.servers import Servers, wait
from benchmarks.site import Site, Waits, site
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.contract.keys import partition_of

MANY = 16
P50_MS = 50.0
P99_MS = 400.0
WARM_UP_S = 5.0

Event = tuple[float, Callable[[Site], None]]
"""At which second of the traffic what happens."""


def waits(
    servers: Servers,
    *,
    partitions: int,
    workers: int,
    seconds: float,
    rate: float,
    traders: int,
    event: Event | None = None,
) -> Waits:
    """At a steady rate, without the first WARM_UP_S; of all partitions but one that cannot be read."""
    spoilt = event is not None and event[1] is Site.spoil
    names = [f"trader-{number}" for number in range(traders)]
    if spoilt:
        names = [name for name in names if partition_of(name, partitions) != 0]
    with site(servers, partitions=partitions, workers=workers) as made:
        since = ""
        with RiskProducer(
            servers.valkey.url, partitions=partitions, registry=CollectorRegistry()
        ) as producer:
            began = monotonic()
            for number in range(int((WARM_UP_S + seconds) * rate)):
                if not since and number >= WARM_UP_S * rate:
                    since = made.now()
                if event and number >= (WARM_UP_S + event[0]) * rate:
                    event[1](made)
                    event = None
                producer.save(
                    RiskSnapshot(
                        trader_id=names[number % len(names)],
                        daily_pnl=0.0,
                        drawdown_pct=0.0,
                        current_equity=1.0,
                        peak_equity=1.0,
                    )
                )
                sleep(max(0.0, began + number / rate - monotonic()))
        sound = range(1 if spoilt else 0, partitions)
        wait(lambda: made.store.length(sound) == 0)
        return made.waits(since)


@dataclass(frozen=True)
class Trial:
    """A row of the table, and how long its snapshots may wait."""

    partitions: int
    workers: int
    what: str = ""
    event: Event | None = None
    longest_ms: float | None = None
    """At the most; None: the percentiles are what counts."""


def trials(seconds: float) -> list[Trial]:
    """One partition and many with the same workers, then what happens to the shares of many."""
    third = seconds / 3
    return [
        *(Trial(partitions, workers) for workers in (1, 2, 4) for partitions in (1, MANY)),
        Trial(MANY, 1, "one partition cannot be read: the others", (0.0, Site.spoil)),
        Trial(MANY, 1, "a second worker joins", (third, Site.start), 1_000),
        Trial(MANY, 2, "one of them dies on another host", (third, Site.kill), 18_000),
    ]


def goals(trial: Trial, found: Waits, of_one: float, of_many: float) -> str:
    """What is to be reached, and whether it is.

    of_one, of_many: p99 of one and of many partitions with as many workers, without an event.
    """
    if trial.longest_ms is not None:
        return _goal("longest", found.longest, trial.longest_ms)
    if trial.event is not None:
        return _goal("p99", found.p99, P99_MS, "; ") + _goal(
            "p99 beside all", found.p99 / of_many, 2, unit=" ×"
        )
    if trial.partitions == 1:
        return ""
    times = _goal("p99 beside one partition", found.p99 / of_one, 2, unit=" ×")
    return _goal("p50", found.p50, P50_MS, "; ") + _goal("p99", found.p99, P99_MS, "; ") + times


def _goal(name: str, value: float, most: float, end: str = "", unit: str = " ms") -> str:
    seen = f" ({value:.1f})" if unit == " ×" else ""
    return f"{name} ≤ {most:,g}{unit}{seen} {'✓' if value <= most else '✗'}{end}"


def main() -> None:
    """Measure, and print a row for each."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.partitions", description="Measure how long snapshots wait while shares change."
    )
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=200.0, help="snapshots a second in all")
    parser.add_argument("--traders", type=int, default=160)
    asked = parser.parse_args()
    heads = "| partitions | workers | | p50 ms | p99 ms | longest ms | goal |"
    print(f"{heads}\n|---|---|---|---|---|---|---|", flush=True)
    p99: dict[tuple[int, int], float] = {}
    with Servers() as servers:
        for each in trials(asked.seconds):
            found = waits(
                servers,
                partitions=each.partitions,
                workers=each.workers,
                seconds=asked.seconds,
                rate=asked.rate,
                traders=asked.traders,
                event=each.event,
            )
            if each.event is None:
                p99[each.partitions, each.workers] = found.p99
            goal = goals(each, found, p99[1, each.workers], p99.get((MANY, each.workers), 0.0))
            figures = f"{found.p50:,.0f} | {found.p99:,.0f} | {found.longest:,.0f}"
            print(f"| {each.partitions} | {each.workers} | {each.what} | {figures} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
