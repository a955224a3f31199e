"""How fast workers drain what waits in the streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

import psycopg

from benchmarks import faststream_batches, rq_jobs
from benchmarks.cpu import Clock, CpuTime
from benchmarks.link import link
from benchmarks.process import Process
from benchmarks.rows import EPOCH, TRADERS, split
from benchmarks.servers import MIGRATED, Servers
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
) -> Drained:
    """One worker process a partition. What they drain is in the streams beforehand.

    Each has drained one row before, so it is connected, as a worker that has been running.
    """
    parts = split(payloads, partitions, traders)
    with ExitStack() as stack:
        url = direct_url = stack.enter_context(servers.database(template))
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
            postgres=[servers.postgres.pid],
            redis=[servers.valkey.pid],
        )
        for worker, _, part in workers:
            worker.tell(len(part) - 1)
        for worker, _, _ in workers:
            worker.hear()
        took, cpu = clock.took_s, CpuTime(**clock.read_us(rows))
        _check(direct_url, len(payloads))
    return Drained(rows / took, cpu)


def rq_job_rate(servers: Servers, payloads: Sequence[bytes]) -> float:
    """Yardstick: one RQ job a snapshot. Rows a second."""
    with servers.database() as url:
        environ = {"REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
        servers.empty()
        with Process("benchmarks.rq_jobs", environ=environ) as worker:
            rq_jobs.fill(servers.redis, payloads[:1])
            worker.tell(1)
            worker.hear()
            rq_jobs.fill(servers.redis, payloads[1:])
            rate = _rate(worker, len(payloads) - 1)
        _check(url, len(payloads))
    return rate


def faststream_rate(servers: Servers, payloads: Sequence[bytes]) -> float:
    """Yardstick: a batch consumer as one would write it by hand. Rows a second."""
    envelope = faststream_batches.envelope()
    with servers.database() as url:
        environ = {"REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
        servers.empty()
        with Process("benchmarks.faststream_batches", environ=environ) as worker:
            for part in (payloads[:1], payloads[1:]):
                servers.empty()
                entries = [envelope + payload for payload in part]
                servers.fill(entries, faststream_batches.STREAM, faststream_batches.FIELD)
                rate = _rate(worker, len(part))
        _check(url, len(payloads))
    return rate


def _rate(worker: Process, rows: int) -> float:
    began = perf_counter()
    worker.tell(rows)
    worker.hear()
    return rows / (perf_counter() - began)


def _check(url: str, rows: int) -> None:
    """Whether each of the rows is stored."""
    with psycopg.connect(url) as db:
        found = db.execute("SELECT count(*) FROM risk_state_history WHERE epoch = %s", (EPOCH,)).fetchone()
    if found != (rows,):
        raise RuntimeError(f"{found} rows stored of {rows}")
