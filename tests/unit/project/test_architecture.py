"""docs/architecture.md names every module: a reader finds where things are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAKERS = {"connect.py", "postgres_state.py", "database.py"}


@pytest.mark.parametrize("package", ["producer/risk_producer", "worker/risk_worker"])
def test_every_module_has_its_noun_in_the_table(package: str) -> None:
    rows = [
        line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if line.startswith("| ")
    ]
    named = {name.split("/")[-1] for row in rows for name in row.split("|")[1].replace(",", " ").split()}
    modules = {path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")}
    assert modules - named == set()


@pytest.mark.parametrize("package", ["producer/risk_producer", "worker/risk_worker"])
def test_only_the_makers_make_a_connection(package: str) -> None:
    """What ruff's list of banned names cannot see: a constructor, and a name bound otherwise."""
    makes = re.compile(r"\b(Redis|ConnectionPool|psycopg\.connect|Connection\.connect|Redis\.from_url)$")
    found = set()
    for path in (ROOT / package).glob("*.py"):
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if (
                isinstance(node, ast.Call)
                and makes.search(ast.unparse(node.func))
                and "noqa: TID251" not in lines[node.lineno - 1]
            ):
                found.add(path.name)
    assert found <= MAKERS
