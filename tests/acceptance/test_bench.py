"""`make bench` measures what it promises; how quick anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROMISED = [
    "drain_rows_per_s",
    "copy_rows_per_s",
    "drain_vs_copy",
    "push_per_s",
    "push_vs_raw_xadd",
    "save_p50_us",
    "save_p99_us",
    "save_vs_put_nowait",
    "e2e_p50_ms",
    "e2e_p99_ms",
    "rtt_rows_per_s",
    "rtt_vs_local",
    "two_workers_rows_per_s",
    "two_workers_vs_one",
    "worker_rss_mb",
    "redis_bytes_per_snapshot",
]


@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_measures_that_are_promised() -> None:
    command = ["benchmarks", "--quick", "--json", "--rows", "2000", "--runs", "1"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert set(PROMISED) <= set(measured)
    assert {name: measured[name] for name in PROMISED if measured[name] <= 0} == {}
