"""What is installed is what the lock files name, and they name all of it, by version and digest."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

from locks import closure, lock, notices
from locks.__main__ import SETS, _may_be_installed

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "locks").glob("*.txt"))
INSTALLED = {lock.normal(each.name): each for each in distributions()}
OF_PYTHON = {"pip", "setuptools", "wheel"}
"""A virtual environment brings them along."""


def test_every_lock_file_has_a_purpose() -> None:
    assert {path.stem for path in FILES} == set(SETS)


def test_what_is_installed_is_what_is_locked() -> None:
    """A package more, or another version: `make clean install` makes .venv anew."""
    found = {name: each.version for name, each in INSTALLED.items() if name not in OF_PYTHON | {"riskstream"}}
    assert found == {name: version for name, (version, _) in lock.read("dev").items()}


@pytest.mark.parametrize("name", SETS)
def test_a_lock_file_names_all_that_is_needed_and_no_more(name: str) -> None:
    """On every Python and platform; what is needed on some of them alone is there, too."""
    requirements = {name: each.requires or [] for name, each in INSTALLED.items()}
    assert closure.closure(closure.wanted(name), requirements) == set(lock.read(name))


@pytest.mark.parametrize("name", SETS)
def test_the_versions_are_those_of_the_constraints(name: str) -> None:
    pins = closure.pins()
    assert {each: version for each, (version, _) in lock.read(name).items()} == {
        each: pins[each] for each in lock.read(name)
    }


def test_nothing_is_pinned_that_nothing_needs() -> None:
    assert closure.pins().keys() == lock.read("dev").keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_lock_file_has_digests_and_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert re.findall(r"^-.*", text, re.M) == ["--only-binary :all:"]
    for version, digests in lock.read(path.stem).values():
        assert version
        assert digests
        assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in digests)


@pytest.mark.parametrize(
    ("filename", "may"),
    [
        ("six-1.17.0-py2.py3-none-any.whl", True),
        ("hiredis-3.5.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True),
        ("hiredis-3.5.0-cp313-cp313-musllinux_1_2_x86_64.whl", True),
        ("numpy-2.4.6-cp314-cp314t-macosx_11_0_arm64.whl", True),
        ("ruff-0.17.6-py3-none-macosx_10_12_x86_64.whl", True),
        ("x-1-cp38-abi3-manylinux2014_x86_64.whl", True),
        ("x-1-cp310-cp310-manylinux2014_x86_64.whl", False),
        ("x-1-pp311-pypy311_pp73-manylinux2014_x86_64.whl", False),
        ("x-1-cp311-cp311-win_amd64.whl", False),
        ("x-1-py2-none-any.whl", False),
    ],
)
def test_which_files_may_be_installed(filename: str, may: bool) -> None:
    assert _may_be_installed(filename) is may


def test_everything_is_installed_by_digest() -> None:
    """And riskstream itself from its sources, with nothing fetched."""
    commands = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text())
    commands += re.findall(r"pip (?:install|wheel) (.*)", (ROOT / "Dockerfile").read_text())
    assert len(commands) == 6
    for each in commands:
        assert ("--require-hashes" in each and "locks/" in each) or "--no-deps" in each, each


def test_the_notices_are_those_of_what_is_locked() -> None:
    """`make lock` writes them."""
    assert notices.FILE.read_text() == notices.text()


def test_every_licence_has_a_name_and_a_text_or_a_word_about_it() -> None:
    text = notices.FILE.read_text()
    assert "psycopg 3.3.9: LGPL-3.0-only" in text
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in text
    for name in lock.read("worker"):
        found = notices.texts(INSTALLED[name])
        assert found or name in notices.BESIDES, f"{name} has no text of its licence"
