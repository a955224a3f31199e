"""Statements are found by their names, and stand in files."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from risk_producer.contract.statements import statements

ROOT = Path(__file__).resolve().parents[4]
STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|COPY|TRUNCATE|BEGIN|SET TRANSACTION)\s")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "package_with_sql"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield folder
    sys.modules.pop("package_with_sql", None)


def test_by_name_without_what_stands_before(package: Path) -> None:
    (package / "a.sql").write_text(
        "-- About this file.\n\n-- name: one\n-- Why.\nSELECT 1;\n\n-- name: two\nSELECT 2\n"
    )
    assert statements("package_with_sql", "a.sql") == {"one": "-- Why.\nSELECT 1", "two": "SELECT 2"}


@pytest.mark.parametrize(
    "text", ["-- name: one\n\n-- name: two\nSELECT 2", "-- name: a\nSELECT 1\n-- name: a\nSELECT 2"]
)
def test_a_name_has_one_statement(package: Path, text: str) -> None:
    (package / "a.sql").write_text(text)
    with pytest.raises(ValueError, match="is empty, or there are two of it"):
        statements("package_with_sql", "a.sql")


@pytest.mark.parametrize("folder", ["producer", "worker", "devkit"])
def test_no_statement_stands_in_python(folder: str) -> None:
    """Where no test would PREPARE it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value)
    ]
    assert found == []
