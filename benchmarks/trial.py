"""One setting of the system, measured in two ways: as quickly as it goes, and at a steady rate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.cpu import Clock
from benchmarks.process import Process
from benchmarks.rows import TRADERS
from benchmarks.servers import MIGRATED, Databases, Servers, Store, wait
from benchmarks.site import site

Measured = dict[str, float]
"""Name -> value. us_* are microseconds of processor time a row, bytes_* bytes a row."""

WARM_UP_ROWS = 1_000
DRAINED_WITHIN_S = 240
_SIZES = "SELECT pg_relation_size('risk_state_history'), pg_indexes_size('risk_state_history'), {}"
_WAL = "pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


@dataclass(frozen=True)
class Setting:
    """What a trial is about. The defaults are where every curve of the growth begins."""

    workers: int = 1
    partitions: int = 1
    nodes: int = 0
    """Masters of a Redis Cluster; 0: one Redis, and no cluster."""
    traders: int = TRADERS
    rate: int = 1_000
    """Snapshots a second at which the waits are measured."""
    batch_size: int = 10_000
    history: int = 0
    """Rows that were stored before."""

    @property
    def shares(self) -> list[range]:
        """The partitions of each worker that has some."""
        number = min(self.workers, self.partitions)
        return [range(first, self.partitions, number) for first in range(number)]


def rush(servers: Servers, setting: Setting, rows: int, template: str = MIGRATED) -> Measured:
    """One producer sends `rows` snapshots as quickly as it can; then the workers drain them all.

    One after the other, so that neither has to share the processors with the other. Each trader has sent, and
    each worker has stored before. The workers are benchmarks.drainer, without RQ.
    """
    store = servers.store(setting.nodes)
    everything = range(setting.partitions)
    with servers.database(template) as url, ExitStack() as stack:
        store.empty()
        environ = {
            "REDIS_URL": store.url,
            "RQ_REDIS_URL": servers.valkey.url,
            "POSTGRES_URL": url,
            "RISK_PARTITIONS": str(setting.partitions),
            "RISK_BATCH_SIZE": str(setting.batch_size),
        }
        producer = stack.enter_context(
            Process("benchmarks.trader", str(setting.traders), "0", environ=environ)
        )
        workers = {
            share: stack.enter_context(Process("benchmarks.drainer", *map(str, share), environ=environ))
            for share in setting.shares
        }
        db: Any = stack.enter_context(psycopg.connect(url, autocommit=True))

        def send(count: int) -> Measured:
            log, came = store.sum_of("persistence", "aof_current_size"), _exchanged(store)
            clock = Clock(producer=[producer.pid], redis_admits=store.pids)
            producer.tell(count)
            producer.hear()
            took_s, us = clock.took_s, clock.read_us(count)
            return {
                "push_per_s": count / took_s,
                **_named("us", us),
                "bytes_stream": store.stream_bytes(everything) / count,
                "bytes_log": (store.sum_of("persistence", "aof_current_size") - log) / count,
                "bytes_to_redis": (_exchanged(store) - came) / count,
            }

        def drain(count: int) -> Measured:
            went = _exchanged(store)
            before = db.execute(_SIZES.format(_WAL)).fetchone()
            clock = Clock(
                worker=[worker.pid for worker in workers.values()],
                redis_reads=store.pids,
                postgres=[servers.postgres.pid],
            )
            for share, worker in workers.items():
                worker.tell(store.length(share))
            to_postgres = sum(worker.hear()["bytes"] for worker in workers.values())
            took_s, us = clock.took_s, clock.read_us(count)
            after = db.execute(_SIZES.format(_WAL)).fetchone()
            heap, index, wal = (float(now - then) / count for now, then in zip(after, before, strict=True))
            return {
                "drain_per_s": count / took_s,
                **_named("us", us),
                "bytes_heap": heap,
                "bytes_index": index,
                "bytes_wal": wal,
                "bytes_from_redis": (_exchanged(store) - went) / count,
                "bytes_to_postgres": to_postgres / count,
            }

        for count in (max(setting.traders, WARM_UP_ROWS), rows):
            measured = send(count) | drain(count)
        [stored] = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
    expected = setting.history + max(setting.traders, WARM_UP_ROWS) + rows
    if stored != expected:
        raise RuntimeError(f"{stored} rows stored of {expected}")
    return measured


def steady(
    servers: Servers,
    setting: Setting,
    seconds: float,
    databases: Databases | None = None,
    template: str = MIGRATED,
) -> Measured:
    """One producer at the setting's rate, through `riskstream worker` processes: waits, and processor time.

    The first second, and one snapshot of each trader before it, do not count.
    """
    with (
        site(
            servers,
            partitions=setting.partitions,
            workers=setting.workers,
            nodes=setting.nodes,
            databases=databases,
            template=template,
        ) as made,
        Process(
            "benchmarks.trader", str(setting.traders), str(setting.rate), environ=made.settings
        ) as producer,
    ):
        for count in (max(setting.traders, WARM_UP_ROWS), setting.rate):
            producer.tell(count)
            producer.hear()
            wait(lambda: made.store.length(range(setting.partitions)) == 0, DRAINED_WITHIN_S)
        rows = round(setting.rate * seconds)
        since = made.now()
        clock = Clock(
            producer=[producer.pid],
            redis=made.store.pids,
            worker=made.pids,
            postgres=[(databases or servers).postgres_pid],
        )
        producer.tell(rows)
        producer.hear()
        took_s = clock.took_s
        wait(lambda: made.store.length(range(setting.partitions)) == 0, DRAINED_WITHIN_S)
        us = clock.read_us(rows)
        waits = made.waits(since)
    return {
        "steady_per_s": rows / took_s,
        "p50_ms": waits.p50,
        "p99_ms": waits.p99,
        **_named("steady_us", us),
    }


def _named(prefix: str, values: Mapping[str, float]) -> Measured:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _exchanged(store: Store) -> int:
    return int(store.sum_of("stats", "total_net_input_bytes", "total_net_output_bytes"))
