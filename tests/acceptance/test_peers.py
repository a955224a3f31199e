"""`make peers` measures what it promises; how quick anything is, no test says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.page import _CASES
from benchmarks.peers.catalogue import catalogue
from benchmarks.peers.trial import FAULTS, survived
from benchmarks.rows import payloads
from benchmarks.servers import Servers


def run(*command: str) -> str:
    """What it prints."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.system
@pytest.mark.timeout(600)
def test_every_peer_stores_what_it_is_sent() -> None:
    shown = run("benchmarks.peers", "--only", "rates", "--rows", "20000", "--runs", "1", "--batch", "500")
    table = shown.partition("\n\n")[0]  # the next one has what each promises
    rows = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines() if "|" in line)
    for name in ("COPY", "psycopg's executemany(), no queue", *(peer.name for peer in catalogue(""))):
        assert rows[name][0].isdigit(), shown


@pytest.mark.system
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_riskstream_stores_all_of_it_whatever_happens_to_its_worker(fault: str) -> None:
    rows = payloads(50_500)
    with Servers() as servers:
        ours = catalogue(servers.valkey.url)[0]
        left = survived(servers, ours, rows[:50_000], rows[50_000:], 500, FAULTS[fault])
    assert (left.missing, left.sent >= 50_000) == (0, True)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_every_kind_of_history_is_measured() -> None:
    if "TEST_TIMESCALE_URL" not in os.environ:
        pytest.skip("TEST_TIMESCALE_URL is not set: no package brings TimescaleDB along")
    shown = run("benchmarks.hypertables", "--rows", "2000", "--runs", "1", "--seconds", "0.5")
    assert all(f"| {name} | " in shown for name in _CASES.values()), shown
