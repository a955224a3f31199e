"""How long a snapshot waits while the shares of 16 partitions change:

    python -m benchmarks.partitions [--seconds 40] [--rate 200] [--traders 160]

With one worker, then while one of its partitions cannot be read, while a second worker joins, and while one
of two dies on another host. How it grows with partitions and workers that stay: benchmarks/growth.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import monotonic, sleep

from prometheus_client import CollectorRegistry

from benchmarks.servers import Servers, wait
from benchmarks.site import Site, Waits, site
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.contract.keys import partition_of

MANY = 16
WARM_UP_S = 5.0

Event = tuple[float, Callable[[Site], None]]
"""At which second of the traffic what happens."""


def waits(
    servers: Servers, *, workers: int, seconds: float, rate: float, traders: int, event: Event | None = None
) -> Waits:
    """At a steady rate, without the first WARM_UP_S; of all partitions but one that cannot be read."""
    spoilt = event is not None and event[1] is Site.spoil
    names = [f"trader-{number}" for number in range(traders)]
    if spoilt:
        names = [name for name in names if partition_of(name, MANY) != 0]
    with site(servers, partitions=MANY, workers=workers) as made:
        since = ""
        with RiskProducer(servers.valkey.url, partitions=MANY, registry=CollectorRegistry()) as producer:
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
        sound = range(1 if spoilt else 0, MANY)
        wait(lambda: made.store.length(sound) == 0)
        return made.waits(since)


def main() -> None:
    """Measure, and print a row for each."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.partitions", description="Measure how long snapshots wait while shares change."
    )
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=200.0, help="snapshots a second in all")
    parser.add_argument("--traders", type=int, default=160)
    asked = parser.parse_args()
    print("| workers | | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|", flush=True)
    third = asked.seconds / 3
    rows: list[tuple[int, str, Event | None]] = [
        (1, "", None),
        (1, "one partition cannot be read", (0.0, Site.spoil)),
        (1, "a second worker joins", (third, Site.start)),
        (2, "one of them dies", (third, Site.kill)),
    ]
    with Servers() as servers:
        for workers, what, event in rows:
            found = waits(
                servers,
                workers=workers,
                seconds=asked.seconds,
                rate=asked.rate,
                traders=asked.traders,
                event=event,
            )
            figures = f"{found.p50:,.0f} | {found.p99:,.0f} | {found.longest:,.0f}"
            print(f"| {workers} | {what} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
