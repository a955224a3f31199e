"""docs/benchmarks.md shows the figures of docs/benchmarks.json, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_the_figures_of_the_file() -> None:
    text, figures = (DOCS / page.PAGE).read_text(), json.loads((DOCS / page.FILE).read_text())
    assert text == page.rendered(text, figures)
    assert set(re.findall(r"<!-- benchmarks\.json: (\w+) -->", text)) == set(page.BLOCKS)
    assert text.count("<!-- end -->") == len(page.BLOCKS)


def block(name: str, figures: dict[str, Any]) -> str:
    """As the page has it."""
    shown = page.rendered(f"<!-- benchmarks.json: {name} -->\n<!-- end -->", figures)
    return shown.partition("\n")[2].rpartition("\n")[0]


PROMISE = {"acknowledged": "after COMMIT", "refused": "waits", "order": "of the stream", "bound": "none"}
FIGURES: dict[str, Any] = {
    "peers_rates": {
        "about": {},
        "ways": {
            "COPY": {"rows_per_s": [100_000.0, 200_000.0]},
            "ours": {"rows_per_s": [80_000.0, 100_000.0], "us_all": [9.0, 11.0], "us_worker": [5.0, 6.0]},
        },
        "promises": {"ours": PROMISE},
    },
    "peers_kill": {"ways": {"ours": {"sent": 1_001, "missing": 0, "again": 500, "took_s": 1.0}}},
    "peers_cut": {"ways": {"ours": {"sent": 1_001, "missing": 7, "again": 0, "took_s": 1.0}}},
}


def test_rates_and_what_faults_have_left_are_one_table() -> None:
    lines = block("peers", FIGURES).splitlines()
    assert lines[2] == "| COPY | 150,000 (100,000 to 200,000) | 1 |  |  |  |  |"
    assert lines[3] == (
        "| ours | 90,000 (80,000 to 100,000) | 0.65 | 10.0 | 5.5 "
        "| all stored of 1,001, 500 delivered again | **7 missing** of 1,001 |"
    )


def test_a_part_that_was_not_measured_says_so() -> None:
    lines = block("peers", {"peers_rates": FIGURES["peers_rates"]}).splitlines()
    assert lines[2].endswith("| 1 |  |  |  |  |")
    assert lines[3].endswith("| 10.0 | 5.5 | not measured | not measured |")


def test_a_section_that_was_not_measured_says_so() -> None:
    assert block("hypertables", FIGURES) == "Not measured yet."


def test_each_promise_stands_beside_its_name() -> None:
    assert block("promises", FIGURES).splitlines()[2] == (
        "| ours | after COMMIT | waits | of the stream | none |"
    )


def test_a_hypertable_is_compared_run_by_run() -> None:
    measures = {"rows_per_s": [50.0, 200.0], "us_worker": [1.0, 2.0], "us_postgres": [3.0, 4.0]}
    cases = {name: dict(measures) for name in page._CASES}
    cases["plain"] |= {"rows_per_s": [100.0, 100.0], "p50_ms": [7.0], "p99_ms": [9.0]}
    lines = block("hypertables", {"hypertables": {"cases": cases}}).splitlines()
    assert lines[2] == "| a plain table | 100 | 1.00 | 1.5 | 3.5 | 7.0 | 9.0 |"
    assert lines[3] == "| a hypertable | 125 (50.0 to 200) | 1.25 | 1.5 | 3.5 |  |  |"


def test_a_section_is_written_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    (tmp_path / page.FILE).write_text(page.as_json({"other": {"about": {"Date": "then"}}}))
    (tmp_path / page.PAGE).write_text("<!-- benchmarks.json: promises -->\n<!-- end -->\n")
    page.show("peers_rates", FIGURES["peers_rates"], keep=False)
    assert "after COMMIT" in capsys.readouterr().out
    assert "peers_rates" not in (tmp_path / page.FILE).read_text()
    page.show("peers_rates", FIGURES["peers_rates"], keep=True)
    kept = json.loads((tmp_path / page.FILE).read_text())
    assert kept["other"] == {"about": {"Date": "then"}}
    assert kept["peers_rates"]["ways"] == FIGURES["peers_rates"]["ways"]
    assert "| ours | after COMMIT |" in (tmp_path / page.PAGE).read_text()
