"""Migrations, as far as no server is needed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from risk_worker import migrations
from risk_worker.migrations import MigrationError


def test_new_makes_a_file_for_dbmate(tmp_path: Path) -> None:
    made = Path(migrations.new("add_columnstore", folder=tmp_path))
    assert re.fullmatch(r"\d{14}_add_columnstore\.sql", made.name)
    assert made.parent == tmp_path
    assert "-- migrate:up" in made.read_text()
    assert "-- migrate:down" in made.read_text()


@pytest.mark.parametrize("name", ["", "Add", "../x", "a b", "x" * 81, "--help"])
def test_new_refuses_other_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(MigrationError, match="a-z, 0-9 and _"):
        migrations.new(name, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_new_and_dump_need_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="run this in a checkout"):
        migrations.new("x", folder=tmp_path / "nowhere")
    with pytest.raises(MigrationError, match="run this in a checkout"):
        migrations.dump("postgresql://u@h/x", folder=tmp_path / "nowhere")


def test_says_that_dbmate_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MigrationError, match=r"dbmate is not installed; run: pip install 'riskstream\[worker\]'"
    ):
        migrations.new("x", folder=tmp_path)


def test_a_broken_dbmate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dbmate").write_text("not a program")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MigrationError, match="dbmate cannot be run: "):
        migrations.new("x", folder=tmp_path)


def test_the_files_have_both_ways_and_stand_in_order() -> None:
    files = sorted(migrations._CHECKOUT.glob("*.sql"))
    assert files
    for path in files:
        assert re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", path.name)
        text = path.read_text()
        assert text.count("-- migrate:up\n") == 1
        assert text.count("-- migrate:down\n") == 1
