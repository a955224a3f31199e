"""`make growth` measures each curve, draws and renders it; how quick anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.growth import QUICK
from benchmarks.points import point
from benchmarks.process import CHECKOUT


@pytest.mark.system
@pytest.mark.timeout(600)
def test_every_curve_is_measured_drawn_and_rendered(tmp_path: Path) -> None:
    growth("--quick", "--minutes", "0.1", "--into", str(tmp_path))
    figures = json.loads((tmp_path / "growth.json").read_text())
    assert figures["bends"]["few"]["postgres COPY"] > 0
    for measure, settings in (("drain_per_s", QUICK.rushes()), ("p99_ms", QUICK.steadies())):
        for setting in settings:
            [value] = point(figures, **asdict(setting))["measures"][measure]
            assert value > 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "scale.md").read_text()
    assert page == scale.rendered(page, figures)
    growth("--quick", "--only", "history", "--minutes", "0.1", "--into", str(tmp_path))
    parts = json.loads((tmp_path / "growth.json").read_text())
    assert [each["setting"] for each in parts["points"]] == [each["setting"] for each in figures["points"]]
    assert parts["bends"] == figures["bends"]


def growth(*arguments: str) -> None:
    """Run it as make does."""
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
