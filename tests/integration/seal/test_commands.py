"""`riskstream seal`: what is printed, and the exit statuses; and the worker's thread."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.runtime.sealing import Sealing
from risk_worker.seal.chain import SQL
from risk_worker.seal.verify import verify
from tests.integration.seal.conftest import fill

CHANGE = "UPDATE risk_state_history SET daily_pnl = 7 WHERE trader_id = 'a' AND seq = 30"


@pytest.fixture
def filled(database_url: str) -> str:
    fill(database_url, ["a"])
    return database_url


def run(url: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner(env={"POSTGRES_URL": url}).invoke(cli, ["seal", *arguments], input=stdin)


def change(url: str) -> None:
    with psycopg.connect(url) as db:
        db.execute("SET session_replication_role = replica")
        db.execute(CHANGE)


def test_from_the_first_run_to_an_attack(filled: str, tmp_path: Path) -> None:
    assert run(filled, "head").exit_code == 1
    assert "nothing is sealed yet" in run(filled, "head").stderr
    heads = run(filled, "run").stdout
    assert len(heads.splitlines()) >= 3
    assert run(filled, "run").stdout == "", "there is nothing left to seal"
    assert run(filled, "head").stdout == heads.splitlines()[-1] + "\n"
    kept = tmp_path / "heads.txt"
    kept.write_text(heads)
    good = run(filled, "verify", "--deep", "--heads", str(kept))
    assert good.exit_code == 0
    assert "35 rows read" in good.stdout
    assert "✓ The rows read are those that were sealed" in good.stdout
    assert run(filled, "verify", "--heads", "-", stdin=heads).exit_code == 0

    change(filled)
    assert run(filled, "verify").exit_code == 0
    bad = run(filled, "verify", "--deep")
    assert bad.exit_code == 1
    assert "run 2, stored from" in bad.stdout
    assert "a, epoch 7, recorded on" in bad.stdout
    found = json.loads(run(filled, "verify", "--deep", "--json").stdout)
    assert (found["intact"], found["rows"], found["deep"]) == (False, 35, True)
    [finding] = found["findings"]
    assert (finding["kind"], finding["run"], finding["trader_id"], finding["epoch"]) == ("changed", 2, "a", 7)
    assert run(filled, "verify", "--deep", "--since", "30m").exit_code == 0


def test_what_proves_nothing_is_no_success(filled: str) -> None:
    none = run(filled, "verify", "--deep")
    assert (none.exit_code, "✗ Nothing is sealed, so nothing is proven." in none.stdout) == (1, True)
    assert json.loads(run(filled, "verify", "--json").stdout)["head"] is None
    run(filled, "run")
    unknown = run(filled, "verify", "--deep", "--trader", "A")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr == "riskstream: nothing is sealed or stored of a trader 'A'\n"
    with psycopg.connect(filled) as db:  # of a trader that was wiped out there are leaves
        db.execute("SET session_replication_role = replica; TRUNCATE risk_state_history, risk_epoch_total")
    assert "removed" in run(filled, "verify", "--deep", "--trader", "a").stdout


def test_show(filled: str) -> None:
    run(filled, "run")
    text = run(filled, "show", "2").stdout
    assert "rows in" in text
    assert "a, epoch 7, " in text
    shown = json.loads(run(filled, "show", "2", "--json", "--trader", "a").stdout)
    assert (shown["number"], shown["kind"], shown["leaves"][0]["trader_id"]) == (2, "sealed", "a")
    assert len(shown["head"]) == 64
    assert run(filled, "show", "999").exit_code == 1


def test_reopen(filled: str) -> None:
    assert run(filled, "reopen").stdout == "History is open\n"
    run(filled, "run")
    assert "History is closed until" in run(filled, "reopen").stdout


@pytest.mark.parametrize("line", ["x", "1", "1 abc", "-1 " + "0" * 64, "1 " + "0" * 62, "² " + "0" * 64])
def test_kept_heads_that_are_none(database_url: str, line: str) -> None:
    done = run(database_url, "verify", "--heads", "-", stdin=f"\n{line}\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "line 2 of the kept heads is none" in done.stderr


@pytest.mark.parametrize("command", [["verify"], ["head"], ["run"], ["show", "1"], ["reopen"]])
def test_what_cannot_be_asked(empty_database_url: str, command: list[str]) -> None:
    for url, reason in (
        (empty_database_url, "run riskstream migrate up"),
        ("postgresql://u:secret@127.0.0.1:1/x", "the database"),
    ):
        done = run(url, *command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_worker_seals_and_logs_the_heads(filled: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "riskstream.seal")  # the head of a run without rows is no event
    Sealing(Settings(postgres_url=filled, seal_every="1h")).look()
    assert verify(filled, deep=True).rows_read == 35
    assert "The worker sealed 11 rows in" in caplog.text
    assert run(filled, "head").stdout.strip() in caplog.text


def test_a_worker_logs_once_that_it_cannot_seal(
    filled: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once when it begins, though the message has other times at each look, and once when it has ended."""
    caplog.set_level(logging.INFO)
    sealing = Sealing(Settings(postgres_url=filled, seal_every="1h"))
    with monkeypatch.context() as patch:
        patch.setitem(SQL, "clock", "SELECT clock_timestamp() + interval '1 h'")
        for _ in range(3):
            sealing.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "could not seal history, and tries again: the database's clock shows" in caplog.text
    for _ in range(2):
        sealing.look()
    assert caplog.messages[-1] == "The worker can seal history again"
    assert caplog.text.count("again") == 2


def test_another_error_is_another_condition(filled: str, caplog: pytest.LogCaptureFixture) -> None:
    sealing = Sealing(Settings(postgres_url="postgresql://u:secret@127.0.0.1:1/x", seal_every="1h"))
    for _ in range(2):
        sealing.look()
    with psycopg.connect(filled) as db:
        db.execute("DROP TABLE risk_seal_run")
    sealing._sealer = Sealing(Settings(postgres_url=filled, seal_every="1h"))._sealer
    for _ in range(2):
        sealing.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "secret" not in caplog.text
