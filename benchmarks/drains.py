"""How fast workers drain what waits in the streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

from benchmarks.cpu import Clock, CpuTime
from benchmarks.link import link
from benchmarks.process import Process
from benchmarks.rows import EPOCH, TRADERS, split
from benchmarks.servers import MIGRATED, Databases, Servers
from risk_producer.contract.keys import Keys

ONE_WAY_MS = 1.2


@dataclass(frozen=True)
class Drained:
    """One run."""

    rows_per_s: float
    cpu: CpuTime


def drained(
    servers: Servers,
    payloads: Sequence[bytes],
    *,
    partitions: int = 1,
    traders: int = TRADERS,
    template: str = MIGRATED,
    one_way_ms: float = 0.0,
    settings: Mapping[str, str] | None = None,
    databases: Databases | None = None,
) -> Drained:
    """One worker process a partition. What they drain is in the streams beforehand.

    Each worker has drained one row before, so it is connected, as one that has been running.
    databases: where they are stored, if not in the servers' Postgres.
    """
    databases = databases or servers
    parts = split(payloads, partitions, traders)
    with ExitStack() as stack:
        url = direct_url = stack.enter_context(databases.database(template))
        if one_way_ms:
            url = stack.enter_context(link(url, one_way_ms))
        environ = {"REDIS_URL": servers.valkey.url, "POSTGRES_URL": url, **(settings or {})}
        servers.empty()
        workers = [
            (stack.enter_context(Process("benchmarks.drainer", str(number), environ=environ)), number, part)
            for number, part in enumerate(parts)
            if part
        ]
        for worker, number, part in workers:
            servers.note(part, Keys(number))
            servers.fill(part[:1], Keys(number).snapshots)
            worker.tell(1)
            worker.hear()
        for _, number, part in workers:
            servers.fill(part[1:], Keys(number).snapshots)
        rows = sum(len(part) - 1 for _, _, part in workers)
        clock = Clock(
            worker=[worker.pid for worker, _, _ in workers],
            postgres=[databases.postgres_pid],
            redis=[servers.valkey.pid],
        )
        for worker, _, part in workers:
            worker.tell(len(part) - 1)
        for worker, _, _ in workers:
            worker.hear()
        took, cpu = clock.took_s, CpuTime(**clock.read_us(rows))
        _check(direct_url, len(payloads))
    return Drained(rows / took, cpu)


def _check(url: str, rows: int) -> None:
    """Whether each of the rows is stored."""
    with psycopg.connect(url) as db:
        found = db.execute("SELECT count(*) FROM risk_state_history WHERE epoch = %s", (EPOCH,)).fetchone()
    if found != (rows,):
        raise RuntimeError(f"{found} rows stored of {rows}")
