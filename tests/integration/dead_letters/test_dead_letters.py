"""`riskstream dead` on the real server."""

from __future__ import annotations

import base64
import json

import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_worker.cli import cli
from risk_worker.database.reader import DatabaseUnavailable
from risk_worker.database.store import PostgresStore
from risk_worker.dead_letters import retry as module
from risk_worker.dead_letters.drop import drop
from risk_worker.dead_letters.retry import retry
from risk_worker.dead_letters.select import DeadLetterFilter, count
from risk_worker.drain.batch import DeadLetter, StreamEntry, decode_entries
from tests.support.database import STREAM, rows, store_entries
from tests.support.factory import entry, payload
from tests.support.servers import with_name


def forbid(db: psycopg.Connection) -> None:
    db.execute("ALTER TABLE risk_state_history ADD CONSTRAINT no_poison CHECK (reason <> 'poison')")


def allow(db: psycopg.Connection) -> None:
    db.execute("ALTER TABLE risk_state_history DROP CONSTRAINT no_poison")


@pytest.fixture
def dead_letters(database_url: str, db: psycopg.Connection) -> str:
    """Of a: 1 and 3 stored, 2 and 4 rejected; of b: 1 rejected; and one that is no snapshot."""
    forbid(db)
    store_entries(
        database_url,
        entry(1, payload("a", 1)),
        entry(2, payload("a", 2, reason="poison")),
        entry(3, payload("a", 3)),
        entry(4, payload("a", 4, reason="poison")),
        entry(5, payload("b", 1, reason="poison")),
        entry(6, b"\xff\xfe"),
    )
    return database_url


def run(url: str, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, ["dead", *arguments], input=answer, env={"POSTGRES_URL": url})


def ids(result: Result) -> list[str]:
    return [line.split()[1] for line in result.stdout.splitlines()]


def history(db: psycopg.Connection) -> list[tuple[str, int]]:
    return rows(db, "SELECT trader_id, seq FROM risk_state_history ORDER BY 1, 2")


def state(db: psycopg.Connection) -> dict[str, int]:
    return dict(rows(db, "SELECT trader_id, seq FROM risk_state"))


def dead(db: psycopg.Connection) -> list[str]:
    return [entry_id for (entry_id,) in rows(db, "SELECT entry_id FROM risk_dead_letter ORDER BY 1")]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["2-0", "4-0", "5-0", "6-0"]),
        (["--trader", "a"], ["2-0", "4-0"]),
        (["--trader", "nobody"], []),
        (["--reason", "NO_POISON"], ["2-0", "4-0", "5-0"]),
        (["--reason", "not a snapshot"], ["6-0"]),
        (["--reason", "100%"], []),
        (["--older-than", "1h"], ["5-0"]),
        (["--newer-than", "1h"], ["2-0", "4-0", "6-0"]),
        (["--trader", "a", "--older-than", "1h"], []),
        (["--limit", "1"], ["5-0"]),
    ],
)
def test_the_list_can_be_filtered(
    dead_letters: str, database_url: str, db: psycopg.Connection, filters: list[str], expected: list[str]
) -> None:
    db.execute("UPDATE risk_dead_letter SET failed_at = now() - interval '2 hours' WHERE entry_id = '5-0'")
    done = run(database_url, "list", *filters)
    assert done.exit_code == 0
    assert sorted(ids(done)) == expected
    assert done.stderr.startswith("4 dead letters, 1 shown" if "--limit" in filters else f"{len(expected)} ")


@pytest.mark.parametrize("command", ["retry", "drop"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--trader", "a"], ["2-0", "4-0"]),
        (["--reason", "NO_POISON"], ["2-0", "4-0", "5-0"]),
        (["--older-than", "1h"], ["5-0"]),
        (["--newer-than", "1h", "--reason", "not a snapshot"], ["6-0"]),
    ],
)
def test_retry_and_drop_take_the_same_filters(
    dead_letters: str,
    database_url: str,
    db: psycopg.Connection,
    command: str,
    filters: list[str],
    expected: list[str],
) -> None:
    allow(db)
    db.execute("UPDATE risk_dead_letter SET failed_at = now() - interval '2 hours' WHERE entry_id = '5-0'")
    foreseen = run(database_url, command, *filters, "--dry-run")
    assert (foreseen.exit_code, sorted(ids(foreseen))) == (0, expected)
    assert dead(db) == ["2-0", "4-0", "5-0", "6-0"]
    run(database_url, command, *filters, *(["--yes"] if command == "drop" else []))
    still = ["6-0"] if command == "retry" and "6-0" in expected else []
    assert dead(db) == sorted({"2-0", "4-0", "5-0", "6-0"} - set(expected) | set(still))


def test_json_has_the_original_bytes(dead_letters: str, database_url: str) -> None:
    listed = json.loads(run(database_url, "list", "--json").stdout)
    assert [letter["entry_id"] for letter in listed] == ["2-0", "4-0", "5-0", "6-0"]
    assert (listed[0]["trader_id"], listed[0]["epoch"], listed[0]["seq"]) == ("a", 1, 2)
    assert listed[0]["sqlstate"] == "23514"
    assert listed[0]["payload"].encode() == payload("a", 2, reason="poison")
    assert listed[3]["payload"] is None
    assert base64.b64decode(listed[3]["payload_base64"]) == b"\xff\xfe"
    assert json.loads(run(database_url, "list", "--json", "--trader", "nobody").stdout) == []


def test_show(dead_letters: str, database_url: str) -> None:
    shown = run(database_url, "show", STREAM, "2-0")
    assert shown.exit_code == 0
    assert payload("a", 2, reason="poison").decode() in shown.stdout
    assert "23514" in shown.stdout
    assert "base64://4=" in run(database_url, "show", STREAM, "6-0").stdout
    missing = run(database_url, "show", STREAM, "9-9")
    assert missing.exit_code == 1
    assert f"there is no dead letter {STREAM} 9-9" in missing.stderr


def test_retry_fills_history_and_never_moves_state_back(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    assert state(db) == {"a": 3}
    allow(db)
    done = run(database_url, "retry", STREAM, "2-0")
    assert (done.exit_code, done.stderr) == (0, "1 stored, 0 still dead\n")
    assert state(db) == {"a": 3}
    done = run(database_url, "retry")
    assert done.exit_code == 1
    assert done.stderr == "2 stored, 1 still dead\n"
    assert "6-0  still dead: not a snapshot" in done.stdout
    assert history(db) == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1)]
    assert state(db) == {"a": 4, "b": 1}
    assert dead(db) == ["6-0"]


def test_what_still_cannot_be_stored_says_todays_reason(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    before = rows(db, "SELECT entry_id, payload, failed_at FROM risk_dead_letter ORDER BY 1")
    allow(db)
    db.execute("ALTER TABLE risk_state_history ADD CONSTRAINT no_four CHECK (seq <> 4)")
    done = run(database_url, "retry", "--trader", "a")
    assert (done.exit_code, done.stderr) == (1, "1 stored, 1 still dead\n")
    [(reason, sqlstate)] = rows(db, "SELECT reason, sqlstate FROM risk_dead_letter WHERE entry_id = '4-0'")
    assert "no_four" in reason and sqlstate == "23514"
    after = rows(db, "SELECT entry_id, payload, failed_at FROM risk_dead_letter ORDER BY 1")
    assert after == [row for row in before if row[0] != "2-0"]


def test_a_foreign_entry_keeps_its_reason(database_url: str, db: psycopg.Connection) -> None:
    why = "a foreign entry: it expects the one field s"
    store_entries(database_url, StreamEntry("1-0", b'["a","b"]', why))
    done = run(database_url, "retry")
    assert done.exit_code == 1
    assert rows(db, "SELECT reason FROM risk_dead_letter") == [
        ("a foreign entry: it expects the one field s",)
    ]


def test_a_dead_letter_of_a_newer_version_gets_its_identity_once_it_can_be_read(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    db.execute(
        "INSERT INTO risk_dead_letter (stream, entry_id, reason, payload) VALUES (%s, '7-0', 'v', %s)",
        (STREAM, payload("c", 1, reason="poison")),
    )
    run(database_url, "retry", STREAM, "7-0")
    assert rows(db, "SELECT trader_id, epoch, seq FROM risk_dead_letter WHERE entry_id = '7-0'") == [
        ("c", 1, 1)
    ]


def test_a_crash_between_store_and_delete_is_harmless(
    dead_letters: str, database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(db)
    monkeypatch.setitem(module._SQL, "remove", "SELECT * FROM nowhere")
    with pytest.raises(Exception, match="nowhere"):
        retry(dead_letters, DeadLetterFilter(trader_id="a"), on_result=lambda *_: None)
    assert history(db) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert dead(db) == ["2-0", "4-0", "5-0", "6-0"]
    monkeypatch.undo()
    again = retry(dead_letters, DeadLetterFilter(trader_id="a"), on_result=lambda *_: None)
    assert (again.stored, again.duplicates, again.still_dead) == (2, 2, 0)
    assert history(db) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert dead(db) == ["5-0", "6-0"]


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    store_entries(database_url, entry(7, payload("a", 5)))
    db.execute(
        "INSERT INTO risk_dead_letter (stream, entry_id, reason, payload) VALUES (%s, '1-0', 'x', %s)",
        (STREAM, payload("a", 1)),
    )
    allow(db)
    before = (history(db), state(db), rows(db, "SELECT * FROM risk_dead_letter ORDER BY 1, 2"))
    done = run(database_url, "retry", "--dry-run")
    assert done.exit_code == 0
    said = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert "stored already" in said["1-0"]
    assert "the state is newer and stays" in said["2-0"]
    assert "the state moves on" in said["5-0"]
    assert "would stay dead: not a snapshot" in said["6-0"]
    dropping = run(database_url, "drop", "--all", "--dry-run")
    assert dropping.exit_code == 0
    assert "5 dead letters would be dropped" in dropping.stderr
    assert (history(db), state(db), rows(db, "SELECT * FROM risk_dead_letter ORDER BY 1, 2")) == before


def test_drop_asks_first(dead_letters: str, database_url: str, db: psycopg.Connection) -> None:
    assert run(database_url, "drop", "--trader", "a", answer="n\n").exit_code == 1
    assert len(dead(db)) == 4
    asked = run(database_url, "drop", "--trader", "a", answer="y\n")
    assert (asked.exit_code, "Drop 2 dead letters" in asked.stderr) == (0, True)
    assert dead(db) == ["5-0", "6-0"]
    assert run(database_url, "drop", STREAM, "5-0", "--yes").exit_code == 0
    assert dead(db) == ["6-0"]
    assert run(database_url, "drop", STREAM, "5-0", "--yes").exit_code == 1
    assert run(database_url, "drop", "--all", "--yes").exit_code == 0
    assert dead(db) == []


def test_dead_letters_that_came_after_the_question_are_not_dropped(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    _, seen = count(dead_letters, DeadLetterFilter())
    store_entries(database_url, entry(8, b"rubbish"))
    entry_of_the_chain = drop(dead_letters, seen, by="x@y")
    assert entry_of_the_chain is not None
    assert entry_of_the_chain.leaves == 4
    assert dead(db) == ["8-0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["drop", "--yes"],
        ["retry", STREAM],
        ["list", "--older-than", "soon"],
        ["list", "--older-than", "-1h"],
        ["show", STREAM],
    ],
)
def test_what_is_unclear_is_rejected(dead_letters: str, database_url: str, arguments: list[str]) -> None:
    done = run(database_url, *arguments)
    assert done.exit_code == 2
    assert "Usage" in done.stderr
    assert count(dead_letters, DeadLetterFilter())[0] == 4


def test_many_dead_letters_go_in_chunks(
    database_url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    forbid(db)
    store_entries(database_url, *(entry(n, payload("a", n, reason="poison")) for n in range(1, 31)))
    assert retry(database_url, DeadLetterFilter(), on_result=lambda *_: None).still_dead == 30
    allow(db)
    assert retry(database_url, DeadLetterFilter(), on_result=lambda *_: None).stored == 30
    assert len(history(db)) == 30 and state(db) == {"a": 30} and dead(db) == []


def test_an_absent_database_is_reported_in_one_line() -> None:
    done = run("postgresql://nobody@127.0.0.1:1/none", "list")
    assert done.exit_code == 2
    assert done.stderr.startswith("riskstream: the database: connection")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(DatabaseUnavailable):
        drop("postgresql://nobody@127.0.0.1:1/none", DeadLetterFilter(), by="x@y")


def test_a_database_that_is_missing_says_what_to_do(database_url: str) -> None:
    done = run(with_name(database_url, "nowhere"), "list")
    assert done.exit_code == 2
    assert "does not exist (the database does not exist: run createdb or check POSTGRES_URL)" in done.stderr


def test_a_database_without_the_tables_says_what_to_do(empty_database_url: str) -> None:
    done = run(empty_database_url, "retry")
    assert done.exit_code == 2
    assert "riskstream migrate up" in done.stderr


def test_save_inserts_no_dead_letter_again(
    dead_letters: str, database_url: str, db: psycopg.Connection
) -> None:
    """The drain comes upon an entry again that is a dead letter already: a batch replayed."""
    with PostgresStore(database_url) as opened:
        batch = decode_entries(STREAM, [entry(2, payload("a", 2, reason="poison")), entry(6, b"\xff\xfe")])
        outcome = opened.save(batch)
    assert [type(letter) for letter in outcome.dead] == [DeadLetter, DeadLetter]
    assert dead(db) == ["2-0", "4-0", "5-0", "6-0"]
