"""docs/architecture.md names every module: a reader finds where things are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("package", ["producer/risk_producer", "worker/risk_worker"])
def test_every_module_has_its_noun_in_the_table(package: str) -> None:
    rows = [
        line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if line.startswith("| ")
    ]
    named = {name.split("/")[-1] for row in rows for name in row.split("|")[1].replace(",", " ").split()}
    modules = {path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")}
    assert modules - named == set()
