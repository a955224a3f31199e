"""What several namespaces cost a worker:

    python -m benchmarks.namespaces [--desks 4] [--rows 200000] [--turns 5]

First a worker drains what waits, as quickly as it can: all of it in one namespace that no trader belongs to,
in one that all belong to, and in one for each desk, with as many partitions in all; in turns. Then workers
run in service, and snapshots come at a steady rate: how long they wait, with one namespace and with several.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import monotonic, perf_counter, sleep

from prometheus_client import CollectorRegistry

from benchmarks.cpu import Clock
from benchmarks.process import Process
from benchmarks.rows import payloads, snapshot, split
from benchmarks.servers import Servers, wait
from benchmarks.site import Waits, site
from risk_producer import RiskProducer
from risk_producer.contract.keys import NO_NAMESPACE, Keyspace

WARM_UP_S = 5.0


@dataclass(frozen=True)
class Case:
    """Whose the streams are. Each case has the same number of them."""

    name: str
    keyspace: Keyspace
    partitions: int
    """Of each namespace."""
    assigns: bool = True
    """Whether traders belong to a namespace."""

    @property
    def numbers(self) -> Sequence[int]:
        """Of all streams."""
        return self.keyspace.numbers(self.partitions)

    @property
    def environ(self) -> dict[str, str]:
        """Of a worker."""
        return {"RISK_NAMESPACES": ",".join(self.keyspace.namespaces) if self.assigns else ""}


def cases(desks: int) -> list[Case]:
    """The same streams, divided differently."""
    names = [f"desk{number}" for number in range(desks)]
    return [
        Case("one namespace", NO_NAMESPACE, desks, assigns=False),
        Case("one, with its traders", Keyspace("desk"), desks),
        Case(f"{desks} namespaces", Keyspace.of(names), 1),
    ]


@dataclass(frozen=True)
class Turn:
    """One drain."""

    rows_per_s: float
    worker_us: float
    """Of processor time for each row."""
    postgres_us: float


def turn(servers: Servers, case: Case, parts: Sequence[Sequence[bytes]]) -> Turn:
    """Drain all payloads. parts: those of each stream."""
    with ExitStack() as stack:
        url = stack.enter_context(servers.database())
        servers.empty()
        streams = [case.keyspace.keys(number) for number in case.numbers]
        for keys, part in zip(streams, parts, strict=True):
            servers.note(part, keys)
        environ = {"REDIS_URL": servers.valkey.url, "POSTGRES_URL": url, **case.environ}
        numbers = map(str, case.numbers)
        worker = stack.enter_context(Process("benchmarks.drainer", *numbers, environ=environ))
        servers.fill(parts[0][:1], streams[0].snapshots)
        worker.tell(1)  # imports and connections are not in the measure
        worker.hear()
        for number, (keys, part) in enumerate(zip(streams, parts, strict=True)):
            servers.fill(part[0 if number else 1 :], keys.snapshots)
        rows = sum(map(len, parts)) - 1
        clock = Clock(worker=[worker.pid], postgres=[servers.postgres.pid])
        worker.tell(rows)
        worker.hear()
        took, cost = clock.took_s, clock.read_us(rows)
        return Turn(rows / took, cost["worker"], cost["postgres"])


def waits(servers: Servers, case: Case, *, workers: int, seconds: float, rate: float, traders: int) -> Waits:
    """At a steady rate in all, without the first WARM_UP_S. Each desk has a producer and some traders."""
    desks = case.keyspace.each
    with (
        site(servers, partitions=case.partitions, workers=workers, keyspace=case.keyspace) as made,
        ExitStack() as stack,
    ):
        producers = [
            stack.enter_context(
                RiskProducer(
                    servers.valkey.url,
                    namespace=desk.namespace,
                    partitions=case.partitions,
                    registry=CollectorRegistry(),
                )
            )
            for desk in desks
        ]
        since, began = "", monotonic()
        for number in range(int((WARM_UP_S + seconds) * rate)):
            if not since and number >= WARM_UP_S * rate:
                since = made.now()
            producers[number % traders % len(desks)].save(snapshot(number, traders))
            sleep(max(0.0, began + number / rate - monotonic()))
        streams = [case.keyspace.keys(number).snapshots for number in case.numbers]
        wait(lambda: sum(map(servers.redis.xlen, streams)) == 0)
        return made.waits(since)


def main() -> None:
    """Print medians, the ratios turn by turn, and a table of waiting times."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.namespaces")
    parser.add_argument("--desks", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measure of waiting; 0: none")
    parser.add_argument("--rate", type=float, default=200.0, help="snapshots a second in all")
    parser.add_argument("--traders", type=int, default=160)
    asked = parser.parse_args()
    first, *others = made = cases(asked.desks)
    found: dict[Case, list[Turn]] = {case: [] for case in made}
    began = perf_counter()
    parts = split(payloads(asked.rows), asked.desks)
    with Servers() as servers:
        for number in range(asked.turns):
            for case in (made, made[::-1])[number % 2]:  # none is always the first
                found[case].append(turn(servers, case, parts))
        print(f"{asked.rows:,} rows, {asked.turns} turns, {perf_counter() - began:.0f} s")
        print(f"{'':<24}{'rows/s':>10}{'worker, µs a row':>18}{'Postgres, µs a row':>20}")
        for case, turns in found.items():
            medians = [
                median(getattr(each, name) for each in turns)
                for name in ("rows_per_s", "worker_us", "postgres_us")
            ]
            print(f"{case.name:<24}{medians[0]:>10,.0f}{medians[1]:>18.2f}{medians[2]:>20.2f}")
        for case in others:
            of_all = [b.rows_per_s / a.rows_per_s for a, b in zip(found[first], found[case], strict=True)]
            of_worker = [b.worker_us / a.worker_us for a, b in zip(found[first], found[case], strict=True)]
            print(
                f"{case.name} to {first.name}: rate {median(of_all):.3f} "
                f"({min(of_all):.3f} to {max(of_all):.3f}), worker's time {median(of_worker):.3f}"
            )
        if not asked.seconds:
            return
        print(f"{'':<24}{'workers':>10}{'p50 ms':>10}{'p99 ms':>10}{'longest ms':>12}")
        for workers in (1, 2):
            for case in (first, others[-1]):
                seen = waits(
                    servers,
                    case,
                    workers=workers,
                    seconds=asked.seconds,
                    rate=asked.rate,
                    traders=asked.traders,
                )
                figures = f"{seen.p50:>10,.1f}{seen.p99:>10,.1f}{seen.longest:>12,.1f}"
                print(f"{case.name:<24}{workers:>10}{figures}", flush=True)


if __name__ == "__main__":
    main()
