"""The measures and their yardsticks: each takes a Bench and returns a rate a second, or times."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from time import monotonic, perf_counter, perf_counter_ns, sleep
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry

from risk_producer import RiskProducer, RiskSnapshot, wire
from risk_producer.keys import Keys
from risk_producer.settings import Settings
from risk_worker import migrations
from risk_worker.drain import drain
from risk_worker.embedded import EmbeddedPostgres, EmbeddedValkey
from risk_worker.source import StreamSource, connect
from risk_worker.store import PostgresStore

TRADERS = 200
KEYS = Keys(0)
_HISTORY = (
    "trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity, "
    "peak_equity, trading_paused, paused_until, last_reset_time, merged"
)


@dataclass
class Bench:
    """The servers, and the snapshots that all measures use: `rows` of TRADERS traders."""

    valkey: EmbeddedValkey
    postgres: EmbeddedPostgres
    rows: int

    def __post_init__(self) -> None:
        self.client: Any = connect(self.valkey.url)
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute("CREATE DATABASE template")
        migrations.up(self.postgres.url_of("template"))
        self.payloads: list[bytes] = []
        copy_lines = []
        seq: dict[str, int] = defaultdict(int)
        for number in range(self.rows):
            trader = f"trader-{number % TRADERS:03d}"
            seq[trader] += 1
            made = snapshot(number)
            self.payloads.append(wire.encode(made, 1, seq[trader]))
            copy_lines.append(
                f"{trader}\t{made.recorded_at.isoformat()}\t1\t{seq[trader]}\t{made.trace_id}\t{made.reason}\t"
                f"{made.daily_pnl}\t{made.drawdown_pct}\t{made.current_equity}\t{made.peak_equity}\tf\t\\N\t"
                f"{made.last_reset_time.isoformat()}\t0\n"
            )
        self.copy_text = "".join(copy_lines).encode()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh migrated database."""
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute("CREATE DATABASE measured TEMPLATE template")
            try:
                yield self.postgres.url_of("measured")
            finally:
                db.execute("DROP DATABASE measured WITH (FORCE)")

    def fill(self) -> None:
        """An empty Redis, then all payloads into the stream."""
        self.client.flushall()
        raw_xadd(self)


def snapshot(number: int) -> RiskSnapshot:
    """One of a realistic size."""
    return RiskSnapshot(
        trader_id=f"trader-{number % TRADERS:03d}",
        daily_pnl=number * 0.25,
        drawdown_pct=1.25,
        current_equity=100_000.0 + number,
        peak_equity=250_000.0,
        trace_id=f"trace-{number}",
        reason="tick",
    )


def raw_xadd(bench: Bench) -> float:
    """Yardstick of pushing: pipelined XADD of the same bytes, 500 a pipeline. Entries a second."""
    began = perf_counter()
    for first in range(0, bench.rows, 500):
        pipeline = bench.client.pipeline(transaction=False)
        for payload in bench.payloads[first : first + 500]:
            pipeline.xadd(KEYS.snapshots, {b"s": payload})
        pipeline.execute()
    return bench.rows / (perf_counter() - began)


def raw_xadd_rate(bench: Bench) -> float:
    """raw_xadd() into an empty Redis."""
    bench.client.flushall()
    return raw_xadd(bench)


def push_rate(bench: Bench) -> float:
    """save() of every snapshot until Redis has the last one. Snapshots a second."""
    bench.client.flushall()
    snapshots = [snapshot(number) for number in range(bench.rows)]
    with RiskProducer(bench.valkey.url, registry=CollectorRegistry()) as producer:
        began = perf_counter()
        for made in snapshots:
            if not producer.save(made):
                raise RuntimeError("save() found no room for RISK_SAVE_TIMEOUT_S")
        if not producer.flush(60):
            raise RuntimeError("flush() did not end")
        took = perf_counter() - began
    return bench.rows / took


def copy_rate(bench: Bench) -> float:
    """Yardstick of draining: COPY of the same rows as text, in one transaction, into the same table."""
    with bench.database() as url, psycopg.connect(url) as db:
        began = perf_counter()
        with db.cursor().copy(f"COPY risk_state_history ({_HISTORY}) FROM STDIN".encode()) as copy:
            copy.write(bench.copy_text)
        db.commit()
        return bench.rows / (perf_counter() - began)


def drain_rate(bench: Bench) -> float:
    """One drain with default settings, everything in the stream beforehand. Rows a second."""
    bench.fill()
    settings = Settings()
    with bench.database() as url, connect(bench.valkey.url) as client, PostgresStore(url) as store:
        source = StreamSource(client, 0, batch_size=settings.batch_size, block_s=0.01)
        began = perf_counter()
        drain(source, store, stop=threading.Event(), over=source.is_empty)
        took = perf_counter() - began
        with psycopg.connect(url) as db:
            [(stored,)] = db.execute("SELECT count(*) FROM risk_state_history").fetchall()
        if stored != bench.rows:
            raise RuntimeError(f"{stored} rows stored of {bench.rows}")
    return bench.rows / took


def save_times_us(bench: Bench) -> tuple[float, float]:
    """(p50, p99) of save() in the caller's thread, at 5,000/s, Redis there. Microseconds."""
    bench.client.flushall()
    with RiskProducer(bench.valkey.url, registry=CollectorRegistry()) as producer:
        return _times_us(producer.save)


def put_nowait_times_us(_bench: Bench) -> tuple[float, float]:
    """Yardstick of save(): (p50, p99) of queue.put_nowait with a thread that takes everything out again."""
    waiting: queue.Queue[RiskSnapshot | None] = queue.Queue(512)

    def take() -> None:
        while waiting.get() is not None:
            pass

    taker = threading.Thread(target=take)
    taker.start()
    times = _times_us(waiting.put_nowait)
    waiting.put(None)
    taker.join()
    return times


def _times_us(call: Callable[[RiskSnapshot], object]) -> tuple[float, float]:
    snapshots = [snapshot(number) for number in range(10_000)]
    took = []
    for made in snapshots:
        began = perf_counter_ns()
        call(made)
        took.append(perf_counter_ns() - began)
        while perf_counter_ns() - began < 200_000:  # 5,000 a second, without giving up the processor
            pass
    cuts = quantiles(took, n=100)
    return cuts[49] / 1000, cuts[98] / 1000


def latency_ms(
    bench: Bench, *, seconds: float, per_s: float = 1000, warm_up_s: float = 2
) -> tuple[float, float]:
    """Steady traffic through a worker process: (p50, p99) in ms from save() to COMMIT."""
    bench.client.flushall()
    with bench.database() as url:
        environ = {**os.environ, "REDIS_URL": bench.valkey.url, "POSTGRES_URL": url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "risk_worker", "worker"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(lambda: bench.client.hget("rq:job:drain-0", "status") == b"started")
            count = int((warm_up_s + seconds) * per_s)
            with RiskProducer(bench.valkey.url, registry=CollectorRegistry()) as producer:
                began = monotonic()
                for number in range(count):
                    producer.save(snapshot(number))
                    sleep(max(0.0, began + number / per_s - monotonic()))
            _wait(lambda: bench.client.xlen(KEYS.snapshots) == 0)
            with psycopg.connect(url) as db:
                row = db.execute(
                    "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM"
                    " pg_xact_commit_timestamp(xmin) - recorded_at) * 1000)::float8[] FROM risk_state_history"
                    " WHERE recorded_at >"
                    " (SELECT min(recorded_at) FROM risk_state_history) + %s * interval '1 s'",
                    (warm_up_s,),
                ).fetchone()
        finally:
            worker.terminate()
            worker.wait(20)
    assert row is not None
    return row[0][0], row[0][1]


def backlog_rss_mb(bench: Bench) -> float:
    """Megabytes of RSS at the most of a worker process that drains the whole backlog."""
    bench.fill()
    with bench.database() as url:
        environ = {**os.environ, "REDIS_URL": bench.valkey.url, "POSTGRES_URL": url}
        script = (
            "import resource, subprocess, sys\n"
            "subprocess.run([sys.executable, '-m', 'risk_worker', 'worker', '--burst'], check=True,"
            " stderr=subprocess.DEVNULL)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env=environ, check=True, capture_output=True, text=True
        )
    return int(done.stdout) / 1024


def redis_bytes_per_snapshot(bench: Bench) -> float:
    """Bytes of Redis' memory a snapshot in the stream."""
    bench.fill()
    return float(bench.client.memory_usage(KEYS.snapshots, samples=0)) / bench.rows


def _wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError("waited in vain")
        sleep(0.01)
