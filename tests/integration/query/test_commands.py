"""The questions as commands: formats, pipes, exit statuses, and files that other programs read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_worker.cli import cli
from risk_worker.query.formats import FORMATS
from tests.support.database import set_odd_defaults, store_entries
from tests.support.factory import START, entry, payload

EVERY = (
    *(
        ["state"],
        ["state", "a"],
        ["history", "a"],
        ["asof", "2026-01-02"],
        ["pauses", "--since", "2026-01-01"],
    ),
    *(["curve", "a", "--since", "2026-01-01"], ["drawdown", "--day", "2026-01-01"], ["stale"]),
    ["pnl", "--week", "2026-01-01"],
)


@pytest.fixture
def url(database_url: str) -> str:
    """a paused at its second snapshot, and goes on after the fourth, in another epoch."""
    store_entries(
        database_url,
        entry(1, payload("a", 1)),
        entry(
            2, payload("a", 2, trading_paused=True, reason="=limit", paused_until=START + timedelta(hours=1))
        ),
        entry(3, payload("a", 3, trading_paused=True)),
        entry(4, payload("a", 4, epoch=2, trading_paused=True)),
        entry(5, payload("a", 5, epoch=2)),
        entry(6, payload("-ü", 9, trading_paused=True, reason="\t+1", trace_id="x,y", drawdown_pct=7.25)),
    )
    return database_url


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"POSTGRES_URL": url})


def table(path: Path, encoding: str) -> list[dict[str, str]]:
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_each_format_has_the_same_rows(url: str, command: list[str]) -> None:
    printed = {form: run(url, *command, "--format", form) for form in FORMATS}
    assert {done.exit_code for done in printed.values()} == {0}
    rows = json.loads(printed["json"].stdout)
    assert rows
    lines = [json.loads(line) for line in printed["jsonl"].stdout.splitlines()]
    table = printed["table"].stdout.splitlines()
    [head, *others] = csv.reader(io.StringIO(printed["csv"].stdout, newline=""))
    assert [list(row) for row in lines] == [list(row) for row in rows] == [head] * len(rows)
    assert len(others) == len(table) - 1 == len(rows)
    assert table[0].split() == head
    assert run(url, *command).stdout.split()[: len(head)] == head


def test_who_was_paused_and_why(url: str) -> None:
    done = run(url, "pauses", "--since", "2026-01-01", "--format", "json", "--tz", "Asia/Tokyo")
    still, over = json.loads(done.stdout)
    assert (still["trader_id"], still["until"], still["reason"]) == ("-ü", None, "\t+1")
    assert over["since"] == "2026-01-01T09:00:02+09:00"
    assert over["until"] == "2026-01-01T09:00:05+09:00"
    assert (over["lasted_s"], over["reason"], over["epoch"], over["seq"]) == (3, "=limit", 1, 2)
    assert [row["trader_id"] for row in json.loads(run(url, "pauses", "--format", "json").stdout)] == ["-ü"]
    assert "-ü" in run(url, "pauses").stdout


def test_the_worst_drawdown(url: str) -> None:
    found = json.loads(run(url, "drawdown", "--day", "2026-01-01", "--top", "1", "--format", "json").stdout)
    assert [(row["trader_id"], row["drawdown_pct"]) for row in found] == [("-ü", 7.25)]


def test_a_trader_that_is_unknown_is_exit_status_1(url: str) -> None:
    for command in (["state", "b"], ["history", "b"], ["pauses", "b"], ["export", "b"], ["asof", "now", "b"]):
        done = run(url, *command)
        assert (done.exit_code, done.stderr) == (1, "riskstream: nothing is stored of a trader 'b'\n"), (
            command
        )
    done = run(url, "history", "a", "--since", "2026-02-01")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("There is none.\nAs of ")
    done = run(url, "history", "a", "--since", "2026-02-01", "--format", "json")
    assert (done.exit_code, done.stdout) == (0, "[]\n")


def test_who_fell_silent(url: str) -> None:
    now = datetime.now(UTC)
    store_entries(url, entry(7, payload("new", 1, recorded_at=now)))
    # A clock that is ahead does not hide that nothing came.
    with psycopg.connect(url) as db:
        db.execute("UPDATE risk_state SET recorded_at = now() + interval '1 day' WHERE trader_id = 'a'")
        db.execute("UPDATE risk_state SET updated_at = now() - interval '1 hour' WHERE trader_id = 'a'")
    silent = json.loads(run(url, "stale", "--older-than", "10m", "--format", "json").stdout)
    assert [row["trader_id"] for row in silent] == ["-ü", "a"]
    assert 3_600 <= silent[1]["silent_s"] < 4_000


def test_an_export_is_harmless_for_a_spreadsheet_and_read_by_push(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = run(url, "export", "--out", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(f"6 rows are in {out}\nAs of ")
    rows = table(out, "utf-8-sig")
    assert len(rows) == 6
    assert (rows[0]["trader_id"], rows[0]["reason"], rows[2]["reason"]) == ("'-ü", "'\t+1", "'=limit")
    assert run(url, "push", "--dry-run", str(out)).exit_code == 0
    plain = tmp_path / "plain.csv"
    assert run(url, "export", "--plain", "--out", str(plain)).exit_code == 0
    rows = table(plain, "utf-8")
    assert (rows[0]["trader_id"], rows[0]["reason"]) == ("-ü", "\t+1")
    assert run(url, "push", "--dry-run", str(plain)).exit_code == 0
    lines = run(url, "export", "a", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_file_that_cannot_be_written_is_exit_status_2(url: str, tmp_path: Path) -> None:
    for out in (tmp_path / "no" / "x.csv", tmp_path):
        assert run(url, "export", "--out", str(out)).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["state"], ["export"], ["history", "a", "--format", "json"]], ids=" ".join
)
def test_in_a_pipe(url: str, command: list[str]) -> None:
    """Nothing but the answer in ASCII or not, no colours; and a reader that is gone ends it quietly."""
    environ = {**os.environ, "POSTGRES_URL": url}
    words = [sys.executable, "-m", "risk_worker", *command]
    done = subprocess.run(
        words,
        env={**environ, "PYTHONIOENCODING": "latin-1", "FORCE_COLOR": "1"},
        capture_output=True,
        check=False,
    )
    said = done.stderr.splitlines()
    assert (done.returncode, len(said)) == (0, command == ["state"])
    assert all(line.startswith(b"As of ") for line in said)
    assert done.stdout and b"\x1b" not in done.stdout
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, env=environ, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_times_that_no_calendar_has(url: str) -> None:
    """They may be in a database that others write to; the nearest that can be shown stands for them."""
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        for table in ("risk_state", "risk_state_history"):
            db.execute(
                f"UPDATE {table} SET paused_until = 'infinity', last_reset_time = '0044-03-15 BC'".encode()
            )
        db.execute("UPDATE risk_state_history SET last_reset_time = '-infinity' WHERE seq = 1")
    for command in EVERY:
        for form in FORMATS:
            done = run(url, *command, "--format", form, "--tz", "Asia/Tokyo")
            assert (done.exit_code, bool(done.stdout)) == (0, True), (command, done.output)
    [row] = json.loads(run(url, "state", "a", "--format", "json").stdout)
    assert row["paused_until"] == "9999-12-31T23:59:59.999999+00:00"
    assert row["last_reset_time"] == "0001-01-01T00:00:00+00:00"


def test_defaults_of_the_database_change_nothing(url: str) -> None:
    """Times are read, and floats are exact, whatever an administrator has set."""
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET daily_pnl = 1e15 / 7, current_equity = 5e-324")
    before = {" ".join(command): run(url, *command, "--format", "json").stdout for command in EVERY}
    set_odd_defaults(url)
    for command in EVERY:
        done = run(url, *command, "--format", "json")
        assert done.exit_code == 0, done.output
        said, expected = json.loads(done.stdout), json.loads(before[" ".join(command)])
        for row in (*said, *expected):
            for name in ("age_s", "silent_s", "lasted_s"):
                row.pop(name, None)
        assert said == expected


def test_without_tables_or_without_postgres(empty_database_url: str) -> None:
    done = run(empty_database_url, "pauses")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "run riskstream migrate up" in done.stderr
    done = run("postgresql://u:geheim@127.0.0.1:1/d", "state")
    assert done.exit_code == 2
    assert "geheim" not in done.stderr
