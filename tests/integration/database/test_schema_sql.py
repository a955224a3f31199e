"""db/schema.sql is what the migrations make."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from risk_devkit.embedded import program
from risk_worker.database import migrations

SCHEMA = Path(__file__).parents[3] / "db" / "schema.sql"


def test_is_up_to_date(database_url: str) -> None:
    assert SCHEMA.read_text() == migrations.schema_of(database_url), "run: riskstream migrate dump"


def test_does_not_depend_on_the_time_zone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET timezone = 'Asia/Kolkata'")
    monkeypatch.setenv("PGTZ", "America/New_York")
    assert SCHEMA.read_text() == migrations.schema_of(database_url)


def test_can_be_loaded(empty_database_url: str) -> None:
    psql = [str(program("psql")), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", empty_database_url]
    subprocess.run([*psql, "-f", str(SCHEMA)], check=True, capture_output=True, timeout=60)
    assert migrations.schema_of(empty_database_url) == SCHEMA.read_text()
    assert migrations.up(empty_database_url) == "Nothing to apply"


def test_dump_writes_it_beside_the_migrations(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "db" / "migrations"
    folder.mkdir(parents=True)
    assert migrations.dump(database_url, folder=folder) == str(tmp_path / "db" / "schema.sql")
    assert (tmp_path / "db" / "schema.sql").read_text() == SCHEMA.read_text()
