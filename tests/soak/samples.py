"""What the processes, Redis and Postgres take, at one moment; and whether it grew."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from risk_producer.contract.keys import Keys
from tests.chaos.engines.single import Single
from tests.chaos.system import System

WARM_UP: Final = 2
"""The first samples, of processes that start, are compared with nothing."""


class Sample(msgspec.Struct, kw_only=True):
    """One moment. A role is worker, producer, redis or postgres; of several processes it has the sum."""

    at_s: float
    processes: dict[str, int] = {}
    rss_mb: dict[str, float] = {}
    """Without what processes share."""
    descriptors: dict[str, int] = {}
    threads: dict[str, int] = {}
    connections: dict[str, int] = {}
    """Of clients, by server."""
    keys: dict[str, int] = {}
    """Redis' keys, by kind: digits are #."""
    key_sizes: dict[str, int] = {}
    """Entries, fields or members in them."""
    redis_mb: float = 0.0
    rows_per_s: float = 0.0
    table_mb: dict[str, float] = {}
    dead_tuples: dict[str, int] = {}
    longest_wait_s: float = 0.0
    """From recorded_at to the transaction that stored it, of what was stored since the last sample."""
    oldest_waiting_s: float = 0.0
    """Age of the oldest entry in a stream."""

    def line(self) -> str:
        """For a person."""
        roles = ", ".join(
            f"{role} {self.rss_mb[role]:.0f} MB {self.descriptors[role]} fd {self.threads[role]} threads"
            for role in sorted(self.rss_mb)
        )
        bloat = sum(self.dead_tuples.values())
        return (
            f"{self.at_s:7.1f} s  {self.rows_per_s:6,.0f} rows/s, waited {self.longest_wait_s:.1f} s, oldest "
            f"waiting {self.oldest_waiting_s:.1f} s; {roles}; connections {self.connections}; "
            f"{sum(self.keys.values())} keys, Redis {self.redis_mb:.1f} MB; tables "
            f"{sum(self.table_mb.values()):.0f} MB, {bloat:,} dead tuples"
        )


class Sampler:
    """Looks at a system now and then."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = time.monotonic()
        self._rows = 0
        self._looked_s = 0.0
        system.execute("CREATE INDEX ON risk_state_history USING brin (stored_at) WITH (autosummarize)")
        self._stored_until = system.execute("SELECT now()::text")[0][0]

    def take(self) -> Sample:
        """A sample. What a server that is away would tell is left out."""
        sample = Sample(at_s=round(time.monotonic() - self._began, 1))
        self._look_at_processes(sample)
        with contextlib.suppress(redis.RedisError):
            self._look_at_redis(sample)
        with contextlib.suppress(psycopg.Error):
            self._look_at_postgres(sample)
        return sample

    def _look_at_processes(self, sample: Sample) -> None:
        system = self._system
        pids = {name: process.pid for name, process in system.processes.items() if process.running}
        engine = cast(Single, system.engine)
        for name, server in (("redis", engine.redis), ("postgres", engine.postgres)):
            if server.running:
                pids[name] = server.pid
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for name, pid in pids.items():
            role = name.partition("-")[0]
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        memory = process.memory_info()
                        totals["rss"][role] += memory.rss - getattr(memory, "shared", 0)
                        totals["descriptors"][role] += process.num_fds()
                        totals["threads"][role] += process.num_threads()
                        totals["processes"][role] += 1
        sample.rss_mb = {role: round(size / 2**20, 1) for role, size in totals["rss"].items()}
        sample.descriptors = dict(totals["descriptors"])
        sample.threads = dict(totals["threads"])
        sample.processes = dict(totals["processes"])

    def _look_at_redis(self, sample: Sample) -> None:
        sizes = {
            "stream": "xlen",
            "hash": "hlen",
            "list": "llen",
            "set": "scard",
            "zset": "zcard",
            "string": "strlen",
        }
        with self._system.engine.client() as client:
            info = client.info()
            sample.connections["redis"] = info["connected_clients"]
            sample.redis_mb = round(info["used_memory"] / 2**20, 2)
            keys, key_sizes = Counter[str](), Counter[str]()
            for key in client.scan_iter(count=1000):
                kind = cast(bytes, client.type(key)).decode()
                name = re.sub(r"[0-9a-f]{8,}|\d+", "#", key.decode())
                keys[name] += 1
                if kind in sizes:
                    key_sizes[name] += getattr(client, sizes[kind])(key)
            sample.keys, sample.key_sizes = dict(keys), dict(key_sizes)
            seconds, micros = client.time()
            now_ms = seconds * 1000 + micros // 1000
            for partition in range(self._system.partitions):
                first = cast(list[Any], client.xrange(Keys(partition).snapshots, count=1))
                if first:
                    age_s = (now_ms - int(first[0][0].partition(b"-")[0])) / 1000
                    sample.oldest_waiting_s = max(sample.oldest_waiting_s, round(age_s, 2))

    def _look_at_postgres(self, sample: Sample) -> None:
        [(rows, wait_s, now)] = self._system.execute(
            "SELECT count(*), coalesce(max(extract(epoch FROM stored_at - recorded_at)), 0)::float8,"
            " now()::text FROM risk_state_history"
            f" WHERE stored_at > '{self._stored_until}' AND stored_at <= now()"
        )
        sample.rows_per_s = round(rows / max(0.001, sample.at_s - self._looked_s), 1)
        sample.longest_wait_s = round(wait_s, 2)
        self._stored_until, self._looked_s = now, sample.at_s
        [(connections,)] = self._system.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        sample.connections["postgres"] = connections
        for table, dead, size in self._system.execute(
            "SELECT relname, n_dead_tup, pg_total_relation_size(relid)::float8 FROM pg_stat_user_tables"
            " WHERE relname LIKE 'risk%'"
        ):
            sample.dead_tuples[table] = dead
            sample.table_mb[table] = round(size / 2**20, 2)


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grew without a bound: its most in the second half is far beyond its most in the first."""
    after = samples[WARM_UP:] if len(samples) > 2 * WARM_UP + 2 else samples
    halves = after[: len(after) // 2], after[len(after) // 2 :]
    if not all(halves):
        return ["there are too few samples to compare"]
    found: list[str] = []
    for name, factor, more in (
        ("rss_mb", 1.3, 30.0),
        ("descriptors", 1.2, 10.0),
        ("threads", 1.2, 5.0),
        ("connections", 1.2, 5.0),
        ("keys", 1.2, 10.0),
    ):
        first, second = (_most([getattr(sample, name) for sample in half]) for half in halves)
        for what, most in second.items():
            bound = first.get(what, 0) * factor + more
            if most > bound:
                found.append(f"{name} of {what} grew from {first.get(what, 0):g} to {most:g}")
    return found


def _most(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    most: dict[str, float] = {}
    for each in values:
        for name, value in each.items():
            most[name] = max(value, most.get(name, value))
    return most
