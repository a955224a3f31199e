"""What `make bench` makes of its samples."""

from __future__ import annotations

import json

from benchmarks import report
from benchmarks.samples import Samples


def samples_of_three_runs() -> Samples:
    samples = Samples()
    for copied, drained in ((100_000, 60_000), (200_000, 80_000), (100_000, 55_000)):
        samples.note("copy_rows_per_s", copied)
        samples.note("drain_rows_per_s", drained)
    samples.note("worker_rss_mb", 140.0)
    samples.compare("drain_vs_copy", "drain_rows_per_s", "copy_rows_per_s")
    return samples


def test_ratios_are_taken_run_by_run() -> None:
    assert json.loads(report.as_json(samples_of_three_runs())) == {
        "copy_rows_per_s": 100_000,
        "drain_rows_per_s": 60_000,
        "worker_rss_mb": 140,
        "drain_vs_copy": 0.55,
    }


def test_markdown_says_which_goals_are_reached() -> None:
    assert report.as_markdown(samples_of_three_runs(), {"Machine": "a small one"}).splitlines() == [
        "| | |",
        "|---|---|",
        "| Machine | a small one |",
        "",
        "| measure | median | min | max | goal |",
        "|---|---|---|---|---|",
        "| copy_rows_per_s | 100,000 | 100,000 | 200,000 |  |",
        "| drain_rows_per_s | 60,000 | 55,000 | 80,000 |  |",
        "| worker_rss_mb | 140.0 | 140.0 | 140.0 | ≤ 120 ✗ |",
        "| drain_vs_copy | 0.55 | 0.40 | 0.60 | ≥ 0.5 ✓ |",
    ]
