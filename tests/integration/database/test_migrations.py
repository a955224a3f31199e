"""Migrations on a real server: dbmate by subprocess, from the project's own functions."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from risk_producer.errors import ConfigurationError
from risk_worker.audit import known_loss
from risk_worker.cli import cli
from risk_worker.database import migrations
from risk_worker.database.migrations import MigrationError
from tests.support.database import take_back
from tests.support.proxy import Proxy
from tests.support.servers import with_name

TABLES = {"risk_state", "risk_state_history", "risk_dead_letter", "risk_deployment"}
# Which of them depends on the server that TEST_DB_URL points at; test_hypertable.py knows.
KINDS = ("risk_state_history is a plain table", "risk_state_history is a hypertable")
FILES = sorted(path.name for path in migrations._CHECKOUT.glob("*.sql"))


def tables_of(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def test_up_says_what_it_did(empty_database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said = migrations.up(empty_database_url)
    assert caplog.messages == said.splitlines()


def test_up_down_and_up_again(empty_database_url: str) -> None:
    said = migrations.up(empty_database_url)
    *applied, kind = said.splitlines()
    assert applied == [f"Applied {name}" for name in FILES]
    assert kind in KINDS
    first = migrations.schema_of(empty_database_url)
    assert tables_of(empty_database_url) >= TABLES

    for name in reversed(FILES):
        assert take_back(empty_database_url) == f"Took back {name}"
    assert tables_of(empty_database_url) == {"schema_migrations"}
    with psycopg.connect(empty_database_url) as connection:
        left = connection.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'risk%'").fetchall()
    assert left == []
    with pytest.raises(MigrationError, match="no migrations have been applied"):
        migrations.down(empty_database_url)

    migrations.up(empty_database_url)
    assert migrations.schema_of(empty_database_url) == first
    assert migrations.up(empty_database_url) == "Nothing to apply"


def test_down_says_how_many_rows_it_would_drop_and_drops_no_others(empty_database_url: str) -> None:
    url = empty_database_url
    migrations.up(url)
    while "_known_losses" not in take_back(url):
        pass
    migrations.up(url)
    while "_known_losses" not in migrations.rows_to_drop(url)[0]:
        take_back(url)
    for seq in (1, 2):
        known_loss.record(url, "t", 1, (seq, seq), reason="x", by="a@b")
    environ = {"POSTGRES_URL": url}
    for given in ([], ["--drop-rows", "1"], ["--drop-rows", "3"]):
        refused = CliRunner().invoke(cli, ["migrate", "down", *given], env=environ)
        assert refused.exit_code == 2
        assert "drops 2 rows for good (risk_known_loss 2)" in refused.stderr
        assert refused.stderr.rstrip().endswith("riskstream migrate down --drop-rows 2")
        assert "Nothing was changed" in refused.stderr
        assert len(known_loss.in_force(url)) == 2
    done = CliRunner().invoke(cli, ["migrate", "down", "--drop-rows", "2"], env=environ)
    assert done.exit_code == 0, done.output
    assert "risk_known_loss" not in tables_of(url)


def test_what_a_way_down_drops_is_read_from_its_file() -> None:
    found = {
        path.name.partition("_")[2]: migrations.tables_dropped_by(path.read_text())
        for path in migrations._CHECKOUT.glob("*.sql")
    }
    assert found["create_risk_tables.sql"] == {"risk_state", "risk_state_history", "risk_dead_letter"}
    assert found["history_hypertable.sql"] == set(), "it copies the rows"
    assert found["partitioning.sql"] == {"risk_deployment"}
    assert found["seals.sql"] == {"risk_epoch_total", "risk_seal", "risk_seal_run", "risk_seal_mark"}
    assert migrations.tables_dropped_by("DROP TABLE a;\n-- migrate:down\nDROP TABLE IF EXISTS b, c;\n") == {
        "b",
        "c",
    }


def test_status_names_what_is_applied_and_what_is_not(empty_database_url: str) -> None:
    assert f"[ ] {FILES[0]}" in migrations.status(empty_database_url)
    migrations.up(empty_database_url)
    assert f"[X] {FILES[0]}" in migrations.status(empty_database_url)


def test_several_at_the_same_moment_migrate_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        said = [*pool.map(migrations.up, [empty_database_url] * 4)]
    *lines, kind = sorted("\n".join(said).splitlines())
    assert lines == [*(f"Applied {name}" for name in FILES), *["Nothing to apply"] * 3]
    assert kind in KINDS


def test_a_failing_migration_names_the_file_and_the_error(empty_database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(migrations._CHECKOUT, folder)
    bad = folder / "29991231235959_break_it.sql"
    bad.write_text("-- migrate:up\nALTER TABLE risk_nothing ADD x int;\n\n-- migrate:down\n")
    with pytest.raises(MigrationError) as caught:
        migrations.up(empty_database_url, folder=folder)
    assert str(caught.value).startswith("29991231235959_break_it.sql: ")
    assert 'relation "risk_nothing" does not exist' in str(caught.value)
    assert tables_of(empty_database_url) >= TABLES, "those before it stay applied"


def test_a_missing_folder_is_named(empty_database_url: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"no folder .*/nowhere with migrations"):
        migrations.up(empty_database_url, folder=tmp_path / "nowhere")


def test_a_missing_database_is_named(empty_database_url: str) -> None:
    with pytest.raises(MigrationError, match="does not exist"):
        migrations.up(with_name(empty_database_url, "not_there"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cut_at", b"pg_is_in_recovery"),  # while the database is waited for
        ("question", b"array_agg(relname"),  # while foreign tables are looked for
        ("cut_at", b"pg_advisory_lock"),  # dbmate has connected
        ("question", b"pg_advisory_lock"),
        ("cut_at", b"CREATE TABLE risk_state"),
        ("question", b"COMMIT"),
        ("refusing", b""),
    ],
)
def test_a_connection_that_is_cut_is_made_again(
    empty_database_url: str, fault: str, words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(empty_database_url) as proxy:
        monkeypatch.setattr(migrations, "_pause", lambda _: setattr(proxy, "refusing", False))
        setattr(proxy, fault, words or True)
        migrations.up(proxy.url, timeout_s=60)
        assert proxy.struck.is_set() or not words
        assert tables_of(empty_database_url) >= TABLES
        assert migrations.up(proxy.url) == "Nothing to apply"


def test_what_waiting_does_not_help_against_is_an_error_at_once(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(migrations, "_pause", waited.append)
    (tmp_path / "20000101000000_bad.sql").write_text("-- migrate:up\nSELECT nonsense;\n-- migrate:down\n")
    with pytest.raises(MigrationError, match="nonsense"):
        migrations.up(empty_database_url, folder=tmp_path, timeout_s=60)
    with pytest.raises(MigrationError, match="does not exist"):
        migrations.up(with_name(empty_database_url, "not_there"), timeout_s=60)
    with psycopg.connect(empty_database_url) as connection:
        info = connection.info
        url = f"postgresql://nobody@{info.host}:{info.port}/{info.dbname}"
    with pytest.raises(MigrationError, match="the user or password is refused"):
        migrations.up(url, timeout_s=60)
    assert waited == []


def test_a_database_that_stays_away_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(migrations, "_pause", waited.append)
    with pytest.raises(MigrationError, match="could not be used within"):
        migrations.up("postgresql://u@127.0.0.1:1/x", timeout_s=0.05)
    assert waited


def test_wait_for_gives_up_with_the_reason() -> None:
    with pytest.raises(MigrationError, match=r"could not be used within 0 s.*refused"):
        migrations.wait_for("postgresql://u:secret@127.0.0.1:1/x", timeout_s=0)


@pytest.fixture
def password_url(empty_database_url: str) -> Iterator[str]:
    """The database's URL with a user whose password needs quoting."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        info = connection.info
        role = f"role_{info.dbname}"
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pass/word @'")
        yield f"postgresql://{role}:pass%2Fword%20%40@{info.host}:{info.port}/{info.dbname}"
        connection.execute(f"DROP ROLE {role}")


class TestThePassword:
    """Never in a command line, a message or a log line."""

    SAID = ("pass/word @", "pass%2Fword%20%40", "pass%2Fword+%40")

    def stub(self, folder: Path, body: str) -> None:
        """A program named dbmate; `report.json` beside it gets what it was called with."""
        program = folder / "dbmate"
        program.write_text(
            f"#!{sys.executable} -IS\n"
            "import json, os, pathlib, sys\n"
            "here = pathlib.Path(sys.argv[0]).parent\n"
            "argv = pathlib.Path('/proc/self/cmdline')\n"
            "line = argv.read_text() if argv.exists() else chr(0).join(sys.argv)\n"
            "(here / 'report.json').write_text(json.dumps({'line': line, 'env': dict(os.environ)}))\n" + body
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def test_is_not_in_the_command_line(self, password_url: str, tmp_path: Path) -> None:
        """Nor in the URL: dbmate writes that into the command line of pg_dump."""
        self.stub(tmp_path, "")
        for do in (migrations.up, migrations.down, migrations.status):
            do(password_url, program=str(tmp_path / "dbmate"))
            report = json.loads((tmp_path / "report.json").read_text())
            assert report["env"].pop("PGPASSWORD") == "pass/word @"
            assert not any(secret in str(report) for secret in self.SAID)

    def test_is_not_in_the_command_line_of_pg_dump(
        self,
        password_url: str,
        empty_database_url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with psycopg.connect(password_url) as connection:
            version, role = connection.info.server_version // 10_000, connection.info.user
        [real] = migrations._pg_dump_folder(version, os.environ["PATH"])
        program = tmp_path / "pg_dump"
        program.write_text(
            f"#!/bin/sh\ntr '\\0' '\\n' </proc/$$/cmdline >>{tmp_path}/report\nexec {real}/pg_dump \"$@\"\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}".encode())
            try:
                assert "schema_migrations" in migrations.schema_of(password_url)
            finally:
                connection.execute(f"DROP OWNED BY {role}".encode())
        report = (tmp_path / "report").read_text()
        assert "--schema-only" in report
        assert not any(secret in report for secret in self.SAID)

    def test_is_masked_in_what_dbmate_prints(
        self,
        password_url: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.stub(
            tmp_path,
            "sys.exit('Error: cannot use postgres://u:pass%2Fword%20%40@h or ' + os.environ['PGPASSWORD'])\n",
        )
        with pytest.raises(MigrationError, match="cannot use") as caught:
            migrations.up(password_url, program=str(tmp_path / "dbmate"))
        assert str(caught.value).count("***") == 2
        assert not any(secret in str(caught.value) + caplog.text for secret in self.SAID)

    def test_is_masked_when_nobody_answers(self, caplog: pytest.LogCaptureFixture) -> None:
        url = "postgresql://u:pass%2Fword%20%40@127.0.0.1:1/x"
        for do in (
            migrations.up,
            lambda url: migrations.wait_for(url, timeout_s=1.5),
        ):
            with pytest.raises((MigrationError, psycopg.OperationalError)) as caught:
                do(url)
            assert not any(secret in str(caught.value) for secret in self.SAID)
        assert "riskstream waits for the database" in caplog.text
        assert not any(secret in caplog.text for secret in self.SAID)

    def test_is_masked_in_a_url_that_nobody_can_read(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            migrations.up("postgresql://u:pass%2Fword%20%40@127.0.0.1:5432/x?nonsense=1")
        assert "that libpq does not know" in str(caught.value)
        assert not any(secret in str(caught.value) for secret in self.SAID)


class TestWhatDbmateIsTold:
    """libpq's words in lib/pq's: what psycopg connected to is what dbmate connects to."""

    def test_the_environment_and_options_of_libpq_count(
        self, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PGOPTIONS says the schema; PGREALM, which dbmate's driver refuses, is kept away."""
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA elsewhere")
        monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
        monkeypatch.setenv("PGREALM", "x")
        monkeypatch.setenv("DBMATE_MIGRATIONS_DIR", "/nowhere")
        migrations.up(empty_database_url)
        monkeypatch.delenv("PGOPTIONS")
        assert tables_of(empty_database_url) == set()

    @pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
    def test_sslmodes_that_allow_a_server_without_ssl(self, empty_database_url: str, sslmode: str) -> None:
        plain, _, _ = empty_database_url.partition("?")
        migrations.up(f"{plain}?sslmode={sslmode}&gssencmode=disable&keepalives=1")
        assert tables_of(empty_database_url) >= TABLES

    def test_several_hosts(self, empty_database_url: str) -> None:
        with psycopg.connect(empty_database_url) as connection:
            info = connection.info
            hosts = f"127.0.0.1:1,{info.host}:{info.port}"
            url = f"postgresql://{info.user}:{info.password}@{hosts}/{info.dbname}"
        migrations.up(url)
        assert tables_of(empty_database_url) >= TABLES


def test_the_deployments_row_comes_and_goes_beside_data(empty_database_url: str) -> None:
    migrations.up(empty_database_url)
    state = (
        "INSERT INTO risk_state (trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, "
        "current_equity, peak_equity, trading_paused, last_reset_time) "
        "VALUES ('t', 1, 1, now(), 0, 0, 0, 0, false, now())"
    )
    identities = []
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute(state)
        for _ in range(2):
            identities += db.execute("SELECT id FROM risk_deployment").fetchall()
            while "_deployment" not in take_back(empty_database_url):
                pass
            migrations.up(empty_database_url)
            assert db.execute("SELECT trader_id FROM risk_state").fetchall() == [("t",)]
    assert len(set(identities)) == 2, "each is made anew"
