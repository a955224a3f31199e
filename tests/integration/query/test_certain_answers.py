"""Answers say how sure they are: in columns for programs, in a line for people, and in Python."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from risk_producer.contract.keys import Keys
from risk_producer.errors import RiskError
from risk_producer.settings.urls import with_option
from risk_worker.cli import cli
from risk_worker.query.questions import AsOf, History, State
from risk_worker.query.reader import RiskReader
from tests.integration.query.conftest import STATES
from tests.support.database import store_entries
from tests.support.factory import entry, payload
from tests.support.history import DAY, TODAY, fill

AWAY = "redis://127.0.0.1:1/0"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def run(url: str, *arguments: str, **environ: str) -> Result:
    done = CliRunner().invoke(cli, arguments, env={"POSTGRES_URL": url, **environ})
    assert done.exit_code == 0, done.output
    return done


def column(url: str, name: str, *command: str, **environ: str) -> dict[str, set[Any]]:
    """What each format has in a column, as JSON would have it."""
    texts = {
        form: run(url, *command, "--format", form, **environ).stdout
        for form in ("json", "jsonl", "csv", "table")
    }
    head, *lines = texts["table"].splitlines()
    assert head.split()[-1] == name
    words: dict[str, Any] = {"yes": True, "no": False, "true": True, "false": False, "": None, "-": None}
    return {
        "json": {row[name] for row in json.loads(texts["json"])},
        "jsonl": {json.loads(line)[name] for line in texts["jsonl"].splitlines()},
        "csv": {
            words[row[name]] if row[name] in words else int(row[name])
            for row in csv.DictReader(io.StringIO(texts["csv"], newline=""))
        },
        "table": {
            words[cell] if cell in words else int(cell.replace(",", ""))
            for cell in (line.split()[-1] for line in lines)
        },
    }


def everywhere(value: Any) -> dict[str, set[Any]]:
    return {form: {value} for form in ("json", "jsonl", "csv", "table")}


@pytest.fixture
def sealed(database_url: str) -> str:
    """Two days of two traders, sealed until the last full hour."""
    fill(database_url, ["a", "b"], NOW - 2 * DAY, 2)
    with psycopg.connect(database_url) as db:
        db.execute(STATES.encode())
    run(database_url, "seal", "run")
    return database_url


def test_what_was_known_is_final_once_it_is_sealed(sealed: str) -> None:
    known = (NOW - 5 * HOUR).isoformat()
    open_ = datetime.now(UTC).isoformat()  # whatever the hour: history is sealed until before now
    assert column(sealed, "final", "asof", known, "--known-at", known) == everywhere(True)
    assert column(sealed, "final", "asof", known, "--known-at", open_) == everywhere(False)
    assert column(sealed, "final", "asof", known) == everywhere(False)
    said = run(sealed, "asof", known, "--known-at", known).stderr
    assert "Final: history is sealed until " in said
    assert "Redis" not in said
    assert "It may still grow: history is sealed until" in run(sealed, "asof", known).stderr
    # Nothing but the rows comes with the other formats.
    assert run(sealed, "asof", known, "--format", "jsonl").stderr == ""


def test_a_final_answer_stays_the_same(sealed: str) -> None:
    """What is stored now comes after what is sealed, whenever it was recorded."""
    known = NOW - 5 * HOUR
    reader = RiskReader(sealed)
    answer = reader.ask(AsOf(known, known_at=known))
    before = list(answer)
    assert answer.certainty is not None and answer.certainty.final and before
    late = payload("a", 1_000, epoch=9, recorded_at=known)
    store_entries(sealed, entry(1, late))
    assert list(answer) == before
    assert [row.epoch for row in reader.ask(AsOf(known, "a"))] == [9]
    [row] = reader.ask(AsOf(known, "a", known_at=datetime.now(UTC)))
    assert (row.epoch, row.final) == (9, False)


def test_nothing_is_final_where_nothing_is_sealed(database_url: str) -> None:
    fill(database_url, ["a"], NOW - 2 * DAY, 2)
    with psycopg.connect(database_url) as db:
        db.execute(STATES.encode())
    known = NOW - 5 * HOUR
    answer = RiskReader(database_url).ask(AsOf(known, known_at=known))
    assert [row.final for row in answer] == [False]
    assert answer.certainty is not None and answer.certainty.sealed_until is None
    shown = run(database_url, "asof", known.isoformat(), "--known-at", known.isoformat()).stderr
    assert "It may still grow: history is not sealed." in shown


@pytest.mark.parametrize("command", [["state"], ["pauses"], ["stale", "--older-than", "1s"]], ids=" ".join)
def test_what_waits_in_redis(
    sealed: str, redis_url: str, redis_client: redis.Redis, command: list[str]
) -> None:
    with psycopg.connect(sealed) as db:  # someone is paused
        db.execute(
            "INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct,"
            " current_equity, peak_equity, trading_paused, last_reset_time)"
            " VALUES ('a', now(), 8, 1, 0, 0, 0, 0, true, now())"
        )
    assert column(sealed, "waiting", *command, REDIS_URL=redis_url) == everywhere(0)
    assert "Nothing waits in Redis." in run(sealed, *command, REDIS_URL=redis_url).stderr
    for partition in (0, 3):
        redis_client.xadd(Keys(partition).snapshots, {"s": payload("a", 1)})
    assert column(sealed, "waiting", *command, REDIS_URL=redis_url) == everywhere(2)
    assert "2 accepted snapshots wait in Redis" in run(sealed, *command, REDIS_URL=redis_url).stderr
    assert column(sealed, "waiting", *command, REDIS_URL=AWAY) == everywhere(None)
    shown = run(sealed, *command, REDIS_URL=AWAY).stderr
    assert "What waits in Redis is not known: Redis does not answer (" in shown
    assert "What waits in Redis is not known: REDIS_URL is not set." in run(sealed, *command).stderr


def test_an_answer_without_rows_says_it_in_each_format(sealed: str) -> None:
    for form in ("json", "jsonl", "csv"):
        said = run(sealed, "history", "a", "--since", "2100-01-01", "--format", form).stderr
        assert said.startswith("There is none.\nAs of ")


def test_a_reader_who_may_not_see_the_seals(sealed: str) -> None:
    with psycopg.connect(sealed, autocommit=True) as db:
        role = f"reader_{db.info.dbname}"
        db.execute(f"CREATE ROLE {role}; GRANT SELECT ON risk_state, risk_state_history TO {role}".encode())
        try:
            url = with_option(sealed, "options", f"-c%20role%3D{role}")
            known = NOW - 5 * HOUR
            answer = RiskReader(url).ask(AsOf(known, known_at=known))
            assert [row.final for row in answer] == [False, False]
            assert answer.certainty is not None
            assert answer.certainty.not_asked == (
                "How far history is sealed is not known: this user may not read risk_seal_run.",
            )
        finally:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_what_retention_has_removed(database_url: str) -> None:
    fill(database_url, ["a"], TODAY - 20 * DAY, 20)
    with psycopg.connect(database_url) as db:
        db.execute(STATES.encode())
    run(database_url, "seal", "run", "--every", "1d")
    run(database_url, "retain", RISK_RETAIN_FOR="10d")
    said = run(database_url, "history", "a", "--since", (TODAY - 15 * DAY).isoformat()).stderr
    assert " (UTC) has been removed by retention." in said
    said = run(database_url, "history", "a", "--since", (TODAY - 2 * DAY).isoformat()).stderr
    assert "removed" not in said


def test_in_python(sealed: str) -> None:
    def fails() -> int:
        raise RiskError("it is Sunday")

    reader = RiskReader(sealed, waiting=lambda: 7)
    assert reader.ask(State()).certainty is None
    answer = reader.ask(State())
    assert {row.waiting for row in answer} == {7}
    found = answer.certainty
    assert found is not None and (found.waiting, found.final, found.not_asked) == (7, False, ())
    assert abs(found.asked_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert found.sealed_until is not None
    answer = RiskReader(sealed, waiting=fails).ask(State())
    assert {row.waiting for row in answer} == {None}
    found = answer.certainty
    assert found is not None and found.not_asked == ("What waits in Redis is not known: it is Sunday.",)
    reader = RiskReader(sealed)
    with reader.at_one_moment() as moment:
        answers = [moment.ask(State()), moment.ask(State("a"))]
        both = list(zip(*answers, strict=False))
        assert len(both) == 1 and moment.ask(History("a")).certainty is None
        assert {each.certainty for each in answers} == {moment.certainty(State())}
