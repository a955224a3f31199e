"""What a backlog takes of the worker's memory, and of Redis'."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.servers import STREAM, Servers
from risk_producer.contract.keys import Keys


def worker_rss_mb(servers: Servers, payloads: Sequence[bytes]) -> float:
    """Megabytes of RSS at the most of a worker process that drains the whole backlog."""
    servers.empty()
    servers.note(payloads, Keys(0))
    servers.fill(payloads)
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'risk_worker', 'worker', '--burst'], check=True,"
        " stderr=subprocess.DEVNULL)\n"
        "unit = 1024 * 1024 if sys.platform == 'darwin' else 1024\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit)"
    )
    with servers.database() as url:
        environ = {**os.environ, "REDIS_URL": servers.valkey.url, "POSTGRES_URL": url}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environ, check=True, capture_output=True, text=True
        )
    return float(done.stdout)


def redis_bytes_per_snapshot(servers: Servers, payloads: Sequence[bytes]) -> float:
    """Bytes of Redis' memory a snapshot in the stream."""
    servers.empty()
    servers.fill(payloads)
    return float(servers.redis.memory_usage(STREAM, samples=0)) / len(payloads)
