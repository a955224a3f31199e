"""What is measured, in which turn: a measure and its yardsticks one after the other, and then again.

Machines differ, and the same machine differs from minute to minute: the ratios are what to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import history
from benchmarks.copies import copy_rate
from benchmarks.drains import ONE_WAY_MS, Drained, drained
from benchmarks.latency import latency_ms
from benchmarks.link import link, round_trip_ms
from benchmarks.memory import redis_bytes_per_snapshot, worker_rss_mb
from benchmarks.pushes import push_rate, raw_xadd_rate
from benchmarks.rows import copy_text, payloads
from benchmarks.samples import Samples
from benchmarks.saves import put_nowait_times_us, save_times_us
from benchmarks.servers import Servers

HISTORY_ROWS = 10_000_000
PUSH_PAIRS = 3
"""A run, of push and yardstick: they take seconds, and single ones lie up to a third off their median."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: int
    runs: int
    seconds: float
    """Of steady traffic, for the latency."""


def measure(servers: Servers, size: Size) -> Samples:
    """Everything but what needs a large history."""
    samples = Samples()
    rows = payloads(size.rows)
    _drains(samples, servers, size.runs, rows)
    _pushes(samples, servers, size.runs, rows)
    _saves(samples, servers, size.runs)
    for _ in range(min(size.runs, 3)):
        p50, p99 = latency_ms(servers, seconds=size.seconds)
        samples.note("e2e_p50_ms", p50)
        samples.note("e2e_p99_ms", p99)
        samples.note("worker_rss_mb", worker_rss_mb(servers, rows))
        samples.note("redis_bytes_per_snapshot", redis_bytes_per_snapshot(servers, rows))
    return samples


def measure_history(samples: Samples, servers: Servers, size: Size) -> None:
    """Draining into a history of HISTORY_ROWS rows and into an empty one. Takes minutes, and gigabytes."""
    rows = payloads(size.rows)
    print(f"filling history with {HISTORY_ROWS:,} rows", file=sys.stderr, flush=True)
    large = history.filled(servers, HISTORY_ROWS)
    for _ in range(size.runs):
        samples.note("history_empty_rows_per_s", drained(servers, rows).rows_per_s)
        samples.note("history_10m_rows_per_s", drained(servers, rows, template=large).rows_per_s)
    samples.compare("history_10m_vs_empty", "history_10m_rows_per_s", "history_empty_rows_per_s")


def _drains(samples: Samples, servers: Servers, runs: int, rows: Sequence[bytes]) -> None:
    text = copy_text(rows)
    for _ in range(runs):
        samples.note("copy_rows_per_s", copy_rate(servers, text))
        one = drained(servers, rows)
        samples.note("drain_rows_per_s", one.rows_per_s)
        samples.note("rtt_rows_per_s", drained(servers, rows, one_way_ms=ONE_WAY_MS).rows_per_s)
        with link(servers.postgres.url, ONE_WAY_MS) as far:
            samples.note("rtt_ms", round_trip_ms(far))
        two = drained(servers, rows, partitions=2)
        samples.note("two_workers_rows_per_s", two.rows_per_s)
        _note_cpu(samples, "one_worker", one)
        _note_cpu(samples, "two_workers", two)
    samples.compare("drain_vs_copy", "drain_rows_per_s", "copy_rows_per_s")
    samples.compare("rtt_vs_local", "rtt_rows_per_s", "drain_rows_per_s")
    samples.compare("two_workers_vs_one", "two_workers_rows_per_s", "drain_rows_per_s")


def _note_cpu(samples: Samples, who: str, run: Drained) -> None:
    samples.note(f"{who}_cpu_us_worker", run.cpu.worker)
    samples.note(f"{who}_cpu_us_postgres", run.cpu.postgres)
    samples.note(f"{who}_cpu_us_redis", run.cpu.redis)
    samples.note(f"{who}_cpu_us_all", run.cpu.all)


def _pushes(samples: Samples, servers: Servers, runs: int, rows: Sequence[bytes]) -> None:
    for _ in range(PUSH_PAIRS * runs):
        samples.note("raw_xadd_per_s", raw_xadd_rate(servers, rows))
        samples.note("push_per_s", push_rate(servers, len(rows)))
    samples.compare("push_vs_raw_xadd", "push_per_s", "raw_xadd_per_s")


def _saves(samples: Samples, servers: Servers, runs: int) -> None:
    for _ in range(runs):
        put_p50, put_p99 = put_nowait_times_us()
        save_p50, save_p99 = save_times_us(servers)
        samples.note("put_nowait_p50_us", put_p50)
        samples.note("put_nowait_p99_us", put_p99)
        samples.note("save_p50_us", save_p50)
        samples.note("save_p99_us", save_p99)
    samples.compare("save_vs_put_nowait", "save_p50_us", "put_nowait_p50_us")
