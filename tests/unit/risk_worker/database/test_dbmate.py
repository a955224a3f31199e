"""Which dbmate is run: the one whose digest is known, or the one that RISK_DBMATE names."""

from __future__ import annotations

import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from risk_producer.settings import Settings
from risk_worker.database import dbmate, migrations


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a program named dbmate stands beside Python; there is none yet."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path / "dbmate"


def program(path: Path) -> Path:
    path.write_text('#!/bin/sh\n: >"$0.ran"\n')
    path.chmod(0o755)
    return path


def test_the_one_that_is_installed_is_known() -> None:
    found = dbmate.program(None)
    assert found == Path(sys.executable).parent / "dbmate"
    assert dbmate.known()[dbmate._digest(found)].startswith("dbmate-2.37.0-")


def test_every_release_that_may_be_installed_is_known_on_every_platform() -> None:
    """A release whose digests are not there would be refused where it is installed."""
    texts = [text.partition(";")[0] for text in requires("riskstream") or [] if "dbmate" in text]
    assert {text.strip().replace("-bin==", "-") for text in texts} == set(dbmate.releases())
    platforms = " ".join(dbmate.known().values())
    for platform in ("linux2014_x86_64", "linux2014_aarch64", "macosx_10_9_x86_64", "macosx_11_0_arm64"):
        assert platform in platforms
    assert all(len(digest) == 64 for digest in dbmate.known())


def test_another_one_is_not_run(beside: Path, tmp_path: Path) -> None:
    program(beside)
    with pytest.raises(migrations.MigrationError) as caught:
        migrations.new("add_x", folder=tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{beside} is not the dbmate that this version of riskstream knows, and is not run"
    )
    assert "--force-reinstall" in message
    assert "RISK_DBMATE" in message
    assert not beside.with_name("dbmate.ran").exists()


def test_one_of_ones_own_is_run_whatever_it_is(beside: Path, tmp_path: Path) -> None:
    own = program(tmp_path / "own")
    with pytest.raises(ValueError, match="unpack"):  # it has made no file
        migrations.new("add_x", folder=tmp_path, program=str(own))
    assert own.with_name("own.ran").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable", "not a whole path"])
def test_one_of_ones_own_that_is_no_program(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dbmate"
    if kind == "folder":
        path.mkdir()
    elif kind == "not executable":
        path.write_text("")
    elif kind == "not a whole path":
        program(path)
        monkeypatch.chdir(tmp_path)
        path = Path("dbmate")
    with pytest.raises(dbmate.DbmateUnusable, match=f"RISK_DBMATE names {path}, which is no program"):
        dbmate.program(str(path))


def test_without_any(beside: Path) -> None:
    with pytest.raises(dbmate.DbmateUnusable, match="dbmate is not installed; run: "):
        dbmate.program(None)


def test_it_gets_nothing_of_ours_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {*Settings.variables(), "RISK_CONFIG", "RQ_DASHBOARD_PASSWORD", "RQ_DASHBOARD_PASSWORD_FILE"}
    for name in (*ours, "PGPASSWORD", "PGHOST", "DBMATE_MIGRATIONS_DIR", "HOME", "LANG"):
        monkeypatch.setenv(name, "x")
    found = dbmate.environment(DATABASE_URL="y", PGPASSWORD="z")
    assert ours.isdisjoint(found)
    assert {"PGHOST", "DBMATE_MIGRATIONS_DIR"}.isdisjoint(found)
    assert {name: found[name] for name in ("HOME", "LANG", "DATABASE_URL", "PGPASSWORD")} == {
        "HOME": "x",
        "LANG": "x",
        "DATABASE_URL": "y",
        "PGPASSWORD": "z",
    }
