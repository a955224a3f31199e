"""How long a snapshot waits where the partitions are many, and the workers few or many:

    python -m benchmarks.partitions [--seconds 40] [--rate 200] [--traders 160] [--workers 1 2 4]

One partition beside many, in turns; with many also while one of them cannot be read, while a worker joins and
while one dies on another host.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

import psycopg
from prometheus_client import CollectorRegistry

from benchmarks.servers import Servers, wait
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.contract.keys import Keys, partition_of
from risk_worker.stream.workers import registered_workers

MANY = 16
WARM_UP_S = 5.0

_ON_ITS_HOST = """
import sys
from risk_worker.runtime import scheduler
scheduler.process_host = lambda: sys.argv[1]  # so that another worker cannot see whether it runs
from risk_worker.cli import cli
cli(["worker"])
"""

Event = tuple[float, Callable[["Site"], None]]
"""At which second of the traffic what happens."""


@dataclass(frozen=True)
class Waits:
    """From recorded_at to the beginning of the transaction that stored it, in ms."""

    p50: float
    p99: float
    longest: float


class Site:
    """Servers, a database, and workers, each as if on a host of its own."""

    def __init__(self, servers: Servers, url: str, partitions: int) -> None:
        self.servers = servers
        self._partitions = partitions
        self._environ = {
            **os.environ,
            "REDIS_URL": servers.valkey.url,
            "POSTGRES_URL": url,
            "RISK_PARTITIONS": str(partitions),
        }
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """One more worker."""
        command = [sys.executable, "-c", _ON_ITS_HOST, f"host-{len(self._workers)}"]
        quiet = subprocess.DEVNULL
        self._workers.append(subprocess.Popen(command, env=self._environ, stdout=quiet, stderr=quiet))

    def kill(self) -> None:
        """The newest worker dies."""
        worker = self._workers.pop()
        worker.kill()
        worker.wait()

    def spoil(self) -> None:
        """The first partition's stream becomes something else."""
        self.servers.redis.delete(Keys(0).snapshots)
        self.servers.redis.set(Keys(0).snapshots, "x")

    def wait_for_shares(self) -> None:
        """Until each worker has its share."""
        shares = min(self._partitions, len(self._workers))
        redis = self.servers.redis
        wait(lambda: len(registered_workers(redis)) == len(self._workers))
        wait(
            lambda: all(redis.hget(f"rq:job:drain-{each}", "status") == b"started" for each in range(shares))
        )

    def stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(20)


@contextmanager
def site(servers: Servers, partitions: int, workers: int) -> Iterator[tuple[Site, str]]:
    servers.empty()
    with servers.database() as url, ExitStack() as stack:
        made = Site(servers, url, partitions)
        stack.callback(made.stop)
        for _ in range(workers):
            made.start()
        made.wait_for_shares()
        yield made, url


def waits(
    servers: Servers,
    *,
    partitions: int,
    workers: int,
    seconds: float,
    rate: float,
    traders: int,
    events: tuple[Event, ...] = (),
) -> Waits:
    """At a steady rate, without the first WARM_UP_S; of all partitions but one that cannot be read."""
    left = list(events)
    spoilt = any(event is Site.spoil for _, event in events)
    names = [f"trader-{number}" for number in range(traders)]
    if spoilt:
        names = [name for name in names if partition_of(name, partitions) != 0]
    with site(servers, partitions, workers) as (made, url):
        with RiskProducer(
            servers.valkey.url, partitions=partitions, registry=CollectorRegistry()
        ) as producer:
            began = monotonic()
            for number in range(int((WARM_UP_S + seconds) * rate)):
                producer.save(
                    RiskSnapshot(
                        trader_id=names[number % len(names)],
                        daily_pnl=0.0,
                        drawdown_pct=0.0,
                        current_equity=1.0,
                        peak_equity=1.0,
                    )
                )
                if left and number >= (WARM_UP_S + left[0][0]) * rate:
                    left.pop(0)[1](made)
                sleep(max(0.0, began + number / rate - monotonic()))
        sound = range(1 if spoilt else 0, partitions)
        wait(lambda: not any(servers.redis.xlen(Keys(each).snapshots) for each in sound))
        with psycopg.connect(url) as db:
            row = db.execute(
                "SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY"
                " extract(epoch FROM stored_at - recorded_at) * 1000)::float8[] FROM risk_state_history"
                " WHERE recorded_at >"
                " (SELECT min(recorded_at) FROM risk_state_history) + %s * interval '1 s'",
                (WARM_UP_S,),
            ).fetchone()
    assert row is not None
    return Waits(*row[0])


def main() -> None:
    """Measure, and print a row for each."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.partitions", description="Measure how long snapshots wait."
    )
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=200.0, help="snapshots a second in all")
    parser.add_argument("--traders", type=int, default=160)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--events", action="store_true", help="also: one partition cannot be read, join, death"
    )
    asked = parser.parse_args()
    print("| partitions | workers | | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|", flush=True)
    with Servers() as servers:

        def measure(partitions: int, workers: int, what: str = "", *events: Event) -> None:
            found = waits(
                servers,
                partitions=partitions,
                workers=workers,
                seconds=asked.seconds,
                rate=asked.rate,
                traders=asked.traders,
                events=events,
            )
            figures = f"{found.p50:,.0f} | {found.p99:,.0f} | {found.longest:,.0f}"
            print(f"| {partitions} | {workers} | {what} | {figures} |", flush=True)

        for workers in asked.workers:
            measure(1, workers)
            measure(MANY, workers)
        if asked.events:
            measure(MANY, 1, "one partition cannot be read", (0.0, Site.spoil))
            measure(MANY, 1, "a second worker joins", (asked.seconds / 3, Site.start))
            measure(MANY, 2, "one of them dies", (asked.seconds / 3, Site.kill))


if __name__ == "__main__":
    main()
