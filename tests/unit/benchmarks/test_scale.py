"""docs/scale.md shows the figures of docs/growth.json, and no others."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.growth import QUICK, Grid, as_json
from benchmarks.points import RUSH, STEADY, line, point
from benchmarks.trial import Setting

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_the_figures_of_the_file() -> None:
    page = (DOCS / "scale.md").read_text()
    growth = json.loads((DOCS / "growth.json").read_text())
    assert page == scale.rendered(page, growth), "run `python -m benchmarks.growth --redraw`"
    assert set(re.findall(r"<!-- growth\.json: (\w+) -->", page)) == set(scale.BLOCKS)
    assert page.count("<!-- end -->") == len(scale.BLOCKS)


@pytest.fixture
def growth() -> dict[str, Any]:
    """Round figures: 10 us for each part of a rush, 100 us at a steady rate."""
    grid = Grid()
    measures = {
        **{f"us_{part}": [9.0, 10.0, 11.0] for part in RUSH},
        **{name: [300.0] for name in scale._BYTES},
        "push_per_s": [50_000.0, 60_000.0, 55_000.0],
        "drain_per_s": [100_000.0],
    }
    steady = {
        **{f"steady_us_{part}": [100.0] for part in STEADY},
        "steady_per_s": [1_000.0],
        "p50_ms": [8.0],
        "p99_ms": [20.0],
    }
    found = {setting: dict(measures) for setting in grid.rushes()}
    for setting in grid.steadies():
        found.setdefault(setting, {}).update(steady)
    points = [{"setting": asdict(setting), "measures": each} for setting, each in found.items()]
    return {"about": {"Machine": "a small one"}, "many": grid.many, "points": points, "bends": {}}


def test_a_size_is_a_cost_times_a_rate(growth: dict[str, Any]) -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in scale.BLOCKS["sizes"](growth).splitlines())
    assert rows["snapshots a second"] == "1,000 | 100,000 | 1,000,000"
    assert rows["producer: cores"] == "0.1 | 1 | 10"  # 100 us at 1,000/s; 10 us where batches are full
    assert rows["redis: cores"] == "0.1 | 2 | 20"  # it takes in, and gives out
    assert rows["worker: how many, used to 60%"] == "1 | 2 | 17"  # 100,000 a second each
    assert rows["producer process: how many, used to 60%"] == "1 | 4 | 31"  # 55,000 a second each
    assert rows["server of Redis: how many, used to 60%"] == "1 | 4 | 34"  # 20 us
    assert rows["a single one would be used to"].startswith(
        "producer process 10%, worker 10%, server of Redis 10%"
    )
    assert rows["… of each where 100,000 traders take turns: worker, Redis, Postgres"] == (
        "1, 1, 1 | 2, 4, 2 | 17, 34, 17"
    )
    assert rows["`RISK_STREAM_MAXLEN` for an outage of 10 min"] == "600,000 | 60,000,000 | 600,000,000"
    assert rows["`RISK_BUFFER_SIZE` of each producer for a failover of 4 s"] == "4,000 | 100,000 | 129,000"
    assert rows["WAL"] == "0.3 MB/s | 30.0 MB/s | 300.0 MB/s"
    assert rows["history, heap and index"] == "52 GB a day | 5,184 GB a day | 51,840 GB a day"


def test_a_figure_is_the_median_and_the_range_of_the_runs(growth: dict[str, Any]) -> None:
    assert "| 55,000 (50,000 to 60,000) |" in scale.BLOCKS["costs"](growth)
    assert "| **50.0** |" in scale.BLOCKS["costs"](growth)


@pytest.mark.parametrize("grid", [Grid(), QUICK], ids=["whole", "quick"])
def test_a_line_differs_in_one_factor(grid: Grid) -> None:
    points = [{"setting": asdict(each), "measures": {"p50_ms": [1.0]}} for each in grid.steadies()]
    growth = {"points": points}
    for factor in ("workers", "partitions", "nodes", "traders", "rate"):
        found = [each["setting"][factor] for each in line(growth, factor, "p50_ms")]
        assert found == sorted({getattr(Setting(), factor), *getattr(grid, factor)})
    many = line(growth, "nodes", "p50_ms", partitions=grid.many)
    assert [each["setting"]["nodes"] for each in many] == list(grid.nodes)
    assert line(growth, "nodes", "drain_per_s") == []


def test_what_was_not_measured_is_an_error() -> None:
    with pytest.raises(LookupError, match="make growth"):
        point({"points": []}, workers=3)
    with pytest.raises(KeyError, match="coasts"):
        scale.rendered("<!-- growth.json: coasts -->\n<!-- end -->", {})


def test_the_file_is_json(growth: dict[str, Any]) -> None:
    assert json.loads(as_json(growth)) == growth


def test_partitions_are_divided_as_workers_divide_them() -> None:
    assert [list(share) for share in Setting(workers=2, partitions=5).shares] == [[0, 2, 4], [1, 3]]
    assert [list(share) for share in Setting(workers=4, partitions=1).shares] == [[0]]
