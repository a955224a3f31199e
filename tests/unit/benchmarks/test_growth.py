"""The curves of the growth, measured in parts; and what a row costs Redis and Postgres."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from benchmarks import bends
from benchmarks.growth import CURVES, Grid, merged
from benchmarks.trial import Setting


def test_the_parts_are_all_of_it() -> None:
    grid = Grid()
    assert {each for curve in CURVES for each in grid.rushes([curve])} == set(grid.rushes())
    assert {each for curve in CURVES for each in grid.steadies([curve])} == set(grid.steadies())


def test_a_part_is_one_curve() -> None:
    grid = Grid()
    assert [each.traders for each in grid.rushes(["traders"])] == [1, 10, 100, 200, 1_000, 10_000, 100_000]
    assert [each.rate for each in grid.steadies(["rate"])] == list(grid.rate)
    assert grid.rushes(["rate"]) == grid.steadies(["history"]) == grid.steadies(["bends"]) == []


def point(measures: dict[str, list[float]], **setting: int) -> dict[str, Any]:
    return {"setting": asdict(Setting(**setting)), "measures": measures}


def test_what_is_measured_anew_replaces_what_was_measured_before() -> None:
    before = [point({"drain_per_s": [1.0], "p50_ms": [2.0]}), point({"p50_ms": [3.0]}, traders=10)]
    new = [point({"drain_per_s": [5.0, 6.0]}), point({"drain_per_s": [7.0]}, traders=1)]
    assert merged(before, new) == [
        point({"drain_per_s": [5.0, 6.0], "p50_ms": [2.0]}),
        point({"p50_ms": [3.0]}, traders=10),
        point({"drain_per_s": [7.0]}, traders=1),
    ]


def test_what_redis_counts_is_divided_among_the_rows() -> None:
    stats = {
        "cmdstat_evalsha": {"calls": 4, "usec": 2_000},
        "cmdstat_xrange": {"calls": 2, "usec": 500},
        "cmdstat_ping": {"calls": 9, "usec": 100},
    }
    found = bends.commands(stats, 1_000)
    assert found == pytest.approx(
        {"redis others": 0.1, "redis reading": 0.5, "redis scripts": 2.0, "scripts/1000": 4.0}
    )


def test_what_postgres_logs_is_divided_among_the_rows() -> None:
    entries = (
        "10.000 ms  statement: COPY risk_state_history (a) FROM STDIN",
        "0.500 ms  parse <unnamed>: INSERT INTO risk_state AS state",
        "2.500 ms  execute <unnamed>: -- the newest\n\tINSERT INTO risk_state AS state",
        "1.000 ms  statement: COMMIT",
        "9.000 ms  statement: SELECT count(*) FROM pg_class",
    )
    log = "".join(f"2026-11-27 01:00:00.000 UTC [1] LOG:  duration: {entry}\n" for entry in entries)
    assert bends.statements(log, 1_000) == pytest.approx(
        {"postgres COPY": 10.0, "postgres state": 3.0, "postgres COMMIT": 1.0, "commits/1000": 1.0}
    )
