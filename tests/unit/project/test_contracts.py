"""The import contracts hold for modules not yet written: throw-away ones break them in any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ("producer", "worker", "devkit")
THROW_AWAY = "import psycopg\nimport redis\nimport rq\n\nprint(psycopg, redis, rq)\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and the contracts, in a folder of their own."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(copy: Path) -> tuple[int, str]:
    """Exit status and output of the check."""
    path = os.pathsep.join(str(copy / name) for name in SOURCES)
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_module_that_imports_every_driver_breaks_a_contract_in_any_folder(copy: Path) -> None:
    status, said = lint(copy)
    assert (status, "0 broken" in said) == (0, True), said
    modules = []
    for source in SOURCES:
        for init in sorted((copy / source).rglob("__init__.py")):
            (init.parent / "throw_away.py").write_text(THROW_AWAY)
            modules.append(".".join([*init.parent.relative_to(copy / source).parts, "throw_away"]))
    assert len(modules) > 15
    status, said = lint(copy)
    assert status == 1
    assert "broken" in said
    assert [module for module in modules if f"{module} ->" not in said] == []


def test_a_folder_has_to_be_placed(copy: Path) -> None:
    folder = copy / "worker" / "risk_worker" / "reports"
    folder.mkdir()
    (folder / "__init__.py").touch()
    status, said = lint(copy)
    assert (status, "reports" in said) == (1, True)


@pytest.mark.parametrize(
    "call",
    [
        "redis.from_url('x')",
        "redis.Redis.from_url('x')",
        "redis.StrictRedis()",
        "redis.ConnectionPool()",
        "redis.asyncio.from_url('x')",
        "redis.asyncio.Redis.from_url('x')",
        "psycopg.connect('x')",
        "psycopg.Connection.connect('x')",
        "psycopg.AsyncConnection.connect('x')",
    ],
)
def test_a_connection_that_is_made_elsewhere_is_found(copy: Path, call: str) -> None:
    path = copy / "worker" / "risk_worker" / "stream" / "throw_away.py"
    path.write_text(f"import psycopg\nimport redis.asyncio\n\nprint(psycopg, {call})\n")
    command = [
        str(Path(sys.executable).with_name("ruff")),
        "check",
        "--no-cache",
        "--select",
        "TID251",
        str(path),
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "TID251" in done.stdout) == (1, True), done.stdout
