"""`make growth` measures each curve and draws it; how quick anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.growth import QUICK
from benchmarks.process import CHECKOUT


@pytest.mark.system
def test_every_curve_is_measured_and_drawn(tmp_path: Path) -> None:
    growth("--quick", "--rows", "2000", "--into", str(tmp_path))
    figures = json.loads((tmp_path / "growth.json").read_text())
    assert {name: [point["x"] for point in curve] for name, curve in figures["curves"].items()} == {
        "batch_size": list(QUICK.batch_size),
        "backlog": list(QUICK.backlog),
        "traders": list(QUICK.traders),
        "partitions": list(QUICK.partitions),
        "history": list(QUICK.history),
    }
    for point in (point for curve in figures["curves"].values() for point in curve):
        [rate], [cpu_us] = point["rows_per_s"], point["cpu_us"]
        assert rate > 0
        assert set(cpu_us) == {"worker", "postgres", "redis"}
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def growth(*arguments: str) -> None:
    """Run it as make does."""
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
