"""How long it takes from save() to COMMIT while traffic is steady."""

from __future__ import annotations

import os
import subprocess
import sys
from time import monotonic, sleep

import psycopg
from prometheus_client import CollectorRegistry

from benchmarks.rows import snapshot
from benchmarks.servers import STREAM, Servers, wait
from risk_producer import RiskProducer


def latency_ms(
    servers: Servers, *, seconds: float, per_s: float = 1000, warm_up_s: float = 2
) -> tuple[float, float]:
    """(p50, p99) through a worker process with default settings."""
    servers.empty()
    with servers.database() as url:
        environ = {**os.environ, "REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "risk_worker", "worker"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait(lambda: servers.redis.hget("rq:job:drain-0", "status") == b"started")
            count = int((warm_up_s + seconds) * per_s)
            with RiskProducer(servers.valkey.url, registry=CollectorRegistry()) as producer:
                began = monotonic()
                for number in range(count):
                    producer.save(snapshot(number))
                    sleep(max(0.0, began + number / per_s - monotonic()))
            wait(lambda: servers.redis.xlen(STREAM) == 0)
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
