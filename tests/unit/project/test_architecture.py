"""docs/architecture.md names every module: a reader finds where things are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ["producer/risk_producer", "worker/risk_worker", "devkit/risk_devkit"]
MAKERS = {
    "risk_producer/transport/connect.py",
    "risk_producer/load/postgres.py",
    "risk_worker/database/connection.py",
}


def modules(package: str) -> dict[str, Path]:
    """Name in the docs -> file."""
    paths = (ROOT / package).rglob("*.py")
    return {str(path.relative_to((ROOT / package).parent)): path for path in paths}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_noun_in_the_table(package: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"risk_\w+/[\w/]+\.py", text))
    there = {name for name in modules(package) if not name.endswith("__.py")}
    assert there == {name for name in named if name.startswith(package.partition("/")[2] + "/")}


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_makers_make_a_connection(package: str) -> None:
    """What ruff's list of banned names cannot see: a name that another module hands on."""
    makes = re.compile(r"\b(Redis|ConnectionPool|psycopg\.connect|Connection\.connect|Redis\.from_url)$")
    found = set()
    for name, path in modules(package).items():
        text = path.read_text()
        if not re.search(r"Redis|ConnectionPool|connect", text):
            continue
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and makes.search(ast.unparse(node.func))
                and "noqa: TID251" not in lines[node.lineno - 1]
            ):
                found.add(name)
    assert found <= MAKERS
