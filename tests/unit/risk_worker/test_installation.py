"""What a message tells to run is what works in this installation; database/test_wheel.py runs it."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from risk_worker import installation


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "'riskstream[worker]'"),
        ("no JSON", "'riskstream[worker]'"),
        ("[]", "'riskstream[worker]'"),
        ('{"url": 5, "dir_info": 3}', "'riskstream[worker]'"),
        (
            {"url": "file:///my%20work/riskstream", "dir_info": {"editable": True}},
            "-e '/my work/riskstream[worker]'",
        ),
        (
            {"url": "file:///src/riskstream", "dir_info": {}},
            "'riskstream[worker] @ file:///src/riskstream'",
        ),
        (
            {"url": "file:///w/riskstream-1.whl", "archive_info": {}},
            "'riskstream[worker] @ file:///w/riskstream-1.whl'",
        ),
        (
            {"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "'riskstream[worker] @ git+https://host/r.git@abc'",
        ),
    ],
)
def test_an_extra_comes_from_where_riskstream_came_from(
    monkeypatch: pytest.MonkeyPatch, origin: Any, requirement: str
) -> None:
    text = origin if origin is None or isinstance(origin, str) else json.dumps(origin)

    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return text

    monkeypatch.setattr(metadata, "distribution", lambda _name: Distribution())
    python = installation.shown(Path(sys.executable))
    assert installation.to_install("worker") == f"{python} -m pip install {requirement}"


def test_without_a_pip_of_its_own_another_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert installation.to_install("worker").startswith(f"pip --python {sys.executable} install ")


def test_a_command_has_its_name_where_path_leads_to_it_and_else_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = Path(sys.executable).with_name("riskstream")
    monkeypatch.setenv("PATH", str(beside.parent))
    assert installation.command() == "riskstream"
    other = tmp_path / "riskstream"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(beside.parent.parent)
    assert installation.command() == "bin/riskstream"
    monkeypatch.chdir(tmp_path)
    assert installation.command() == str(beside)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a b" / "python"))
    assert installation.command() == "'a b/python' -m risk_worker"
