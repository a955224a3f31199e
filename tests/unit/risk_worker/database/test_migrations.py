"""Migrations, as far as no server is needed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.database.migrations import MigrationError
from tests.support.clock import FakeClock


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


def test_new_and_dump_write_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    says = f"there is no folder {tmp_path}/db/migrations: run this at the top of a checkout"
    with pytest.raises(MigrationError, match=says):
        migrations.new("x")
    with pytest.raises(MigrationError, match=says):
        migrations.dump("postgresql://u@h/x")

    here = tmp_path / "db" / "migrations"
    here.mkdir(parents=True)
    assert Path(migrations.new("x")).parent == here
    monkeypatch.setattr(migrations, "schema_of", lambda _url, *, folder, program: f"-- of {folder}\n")
    assert migrations.dump("postgresql://u@h/x") == str(tmp_path / "db" / "schema.sql")
    assert (tmp_path / "db" / "schema.sql").read_text() == f"-- of {here}\n"


@pytest.mark.parametrize(
    ("libpq", "says", "waits"),
    [
        (
            'connection to server at "h", port 1 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?\n",
            'connection to server at "h", port 1 failed: Connection refused. '
            "Is the server running on that host and accepting TCP/IP connections?",
            True,
        ),
        (
            "Connection attempts failed. All failures were:\n- host: 'a': slow\n- host: 'b': gone",
            "Connection attempts failed. All failures were: - host: 'a': slow. - host: 'b': gone",
            True,
        ),
        (
            'failed: FATAL:  database "x" does not exist',
            'failed: FATAL: database "x" does not exist '
            "(the database does not exist: run createdb or check POSTGRES_URL)",
            False,
        ),
        ("connection timeout expired", "connection timeout expired", True),
    ],
)
def test_why_there_is_no_connection_reads_as_sentences_and_says_what_to_do(
    libpq: str, says: str, waits: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise psycopg.OperationalError(libpq)

    monkeypatch.setattr(database.Connection, "connect", refuse)
    clock = FakeClock()
    monkeypatch.setattr(migrations, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(migrations, "_pause", lambda left_s: setattr(clock, "now", clock.now + left_s))
    with pytest.raises(MigrationError) as caught:
        migrations.wait_for("postgresql://h/x", timeout_s=0.01)
    if waits:
        assert str(caught.value) == f"the database postgresql://h/x could not be used within 0 s: {says}"
        assert caplog.messages == [f"riskstream waits for the database postgresql://h/x: {says}"]
    else:
        assert str(caught.value) == f"cannot connect to the database postgresql://h/x: {says}"
    with pytest.raises(MigrationError) as caught:
        migrations.up("postgresql://h/x")
    assert str(caught.value) == f"cannot connect to the database postgresql://h/x: {says}"


def test_says_that_dbmate_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MigrationError, match=r"dbmate is not installed; run: .+ -m pip install .*\[worker\]"):
        migrations.new("x", folder=tmp_path)


def test_a_broken_dbmate_is_named(tmp_path: Path) -> None:
    program = tmp_path / "dbmate"
    program.write_text("not a program")
    program.chmod(0o755)
    with pytest.raises(MigrationError, match="dbmate cannot be run: "):
        migrations.new("x", folder=tmp_path, program=str(program))


def test_the_files_have_both_ways_and_stand_in_order() -> None:
    files = sorted(migrations._CHECKOUT.glob("*.sql"))
    assert files
    for path in files:
        assert re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", path.name)
        text = path.read_text()
        assert text.count("-- migrate:up\n") == 1
        assert text.count("-- migrate:down\n") == 1


class TestWhichPgDump:
    """The server's own version where it is there, otherwise the least that is newer."""

    @pytest.mark.parametrize(
        ("server", "there", "chosen"),
        [
            (15, [18, 15, 16], 15),
            (15, [18, 14, 16], 16),
            (17, [16, 18, 15], 18),
            (18, [15, 18], 18),
            (19, [15, 18], None),
        ],
    )
    def test_is_chosen(
        self,
        server: int,
        there: list[int],
        chosen: int | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(migrations, "_EMBEDDED", "no_such_package")
        monkeypatch.setattr(migrations, "_DEBIAN", tmp_path / "none")
        for version in there:
            folder = tmp_path / str(version)
            folder.mkdir()
            program = folder / "pg_dump"
            program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}.4 (Debian {version}.4-1)'\n")
            program.chmod(0o755)
        path = os.pathsep.join(str(tmp_path / str(version)) for version in there)
        assert migrations._pg_dump_folder(server, path) == ([str(tmp_path / str(chosen))] if chosen else [])
