"""What an operator drops is an entry of the chain of seals: it is no loss, for ever."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from risk_producer.contract.keys import Keys
from risk_worker.cli import cli
from risk_worker.dead_letters import drop as module
from risk_worker.dead_letters.drop import drop
from risk_worker.dead_letters.select import DeadLetterFilter
from risk_worker.seal import drops
from risk_worker.seal.chain import SQL, ChainBusy, lock
from risk_worker.seal.verify import Report, read_heads
from risk_worker.seal.verify import verify as verify_seals
from tests.integration.seal.conftest import fill, seal
from tests.support.database import STREAM, rows, store_entries
from tests.support.factory import entry, payload

EPOCH = 7
LONG = b'"reason":"' + b"x" * 1_025 + b'"'
ODD = 'o\'Neil "q" \\ ü;--\n✓ Reconciled: \x1b[2J'
SHOWN = ODD.replace("\n", "\\n").replace("\x1b", "\\x1b")


def bad(trader: str, seq: int, merged: int = 0) -> bytes:
    """No snapshot, as its reason is too long."""
    return payload(trader, seq, epoch=EPOCH, merged=merged).replace(b'"reason":""', LONG)


@pytest.fixture
def url(database_url: str, redis_client: redis.Redis) -> str:
    """Of t 1 to 10 were admitted: 1, 2, 8 and 10 are stored; dead letters stand for 3 to 6 and 9; 7 is lost.
    Of another trader the only snapshot is a dead letter, and there is one that is no snapshot."""
    good = [entry(seq, payload("t", seq, epoch=EPOCH)) for seq in (1, 2, 8, 10)]
    dead = [entry(6, bad("t", 6, merged=3)), entry(9, bad("t", 9)), entry(20, bad(ODD, 1))]
    store_entries(database_url, *good, *dead, entry(30, b"\xff\xfe"))
    redis_client.hset(Keys(0).admitted, mapping={f"{EPOCH}:t": 10, f"{EPOCH}:{ODD}": 1})
    return database_url


@pytest.fixture
def run(environ: dict[str, str]) -> Any:
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words], env=environ)


def sums(run: Any) -> tuple[int, int, int]:
    """(lost, dead, dropped), as `riskstream verify` counts them."""
    found = json.loads(run("verify", "--json").stdout)
    return found["lost"], found["dead"], found["dropped"]


def drop_all(run: Any) -> str:
    """Drop all dead letters. Returns the head of the entry."""
    done: Result = run("dead", "drop", "--all", "--yes")
    assert done.exit_code == 0, done.output
    assert "4 dead letters dropped" in done.stderr
    return done.stdout.strip()


@pytest.fixture
def admin(url: str) -> Any:
    """A superuser, with the triggers disabled."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        yield db


def looked_at(url: str, *heads: str) -> Report:
    return verify_seals(url, deep=True, heads=read_heads(heads))


def test_what_is_dropped_is_no_loss_for_ever(
    url: str, run: Any, redis_client: redis.Redis, db: psycopg.Connection
) -> None:
    assert sums(run) == (1, 4, 0)
    head = drop_all(run)
    assert rows(db, "SELECT count(*) FROM risk_dead_letter") == [(0,)]
    assert sums(run) == (1, 0, 6), "seq 7 is lost as before"
    assert "t, epoch 7: lost seq 7\n" in run("verify", "--trader", "t").stdout
    assert run("verify", "accept", "t", EPOCH, 7, "--reason", "x").exit_code == 0
    assert "✓ Reconciled: 1 are lost and no others, 6 were dropped by operators" in run("verify").stdout
    refused = run("verify", "accept", "t", EPOCH, "3", "--reason", "x")
    assert (refused.exit_code, "not lost are seq 3:" in refused.stderr) == (2, True)

    # What comes later changes nothing of it: runs, a Redis that forgets, another entry.
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE risk_state_history SET stored_at = now() - interval '3 h'")
    seal(url)
    assert run("verify").exit_code == 0
    store_entries(url, entry(40, bad("u", 2, merged=1)))
    redis_client.delete(Keys(0).admitted)
    assert run("dead", "drop", "--trader", "u", "--yes").exit_code == 0
    assert sums(run) == (0, 0, 5), "where neither Redis nor history knows of a trader nothing is counted"
    report = looked_at(url, head)
    assert (report.findings, report.rows_read, report.dropped, report.drop_entries) == ([], 4, 5, 2)
    assert "5 dead letters were dropped by operators, in 2 entries" in run("seal", "verify").stdout


def test_what_was_dropped_can_be_listed_and_proven(url: str, run: Any, db: psycopg.Connection) -> None:
    kept = dict(rows(db, "SELECT entry_id, payload FROM risk_dead_letter"))
    number = drop_all(run).split()[0]
    listed = run("dead", "dropped").stdout.splitlines()
    assert len(listed) == 4
    assert f" {STREAM} 6-0  t/7/3-6  {sha256(kept['6-0']).hexdigest()}  not a snapshot: " in listed[2]
    assert f" {STREAM} 30-0  -  {sha256(kept['30-0']).hexdigest()}  " in listed[1]
    assert len(run("dead", "dropped", "--trader", ODD).stdout.splitlines()) == 1
    assert f"{SHOWN}/7/1 " in run("seal", "show", number).stdout
    shown = json.loads(run("seal", "show", number, "--json", "--trader", "t").stdout)
    assert (shown["kind"], shown["leaves"][1]["last_seq"]) == ("dropped", 9)


def test_what_is_stored_again_is_not_dropped(url: str, run: Any, db: psycopg.Connection) -> None:
    good = payload("t", 6, epoch=EPOCH, merged=3)
    db.execute("UPDATE risk_dead_letter SET payload = %s WHERE entry_id = '6-0'", (good,))
    assert run("dead", "retry", "--trader", "t").exit_code == 1
    assert sums(run) == (1, 3, 0)
    assert run("seal", "head").exit_code == 1, "the chain has no entry"
    run("dead", "drop", "--trader", "nobody", "--yes")
    run("dead", "drop", STREAM, "99-0", "--yes")
    assert run("seal", "head").exit_code == 1


def test_an_entry_may_be_the_first_of_the_chain(url: str, run: Any) -> None:
    drop_all(run)
    proves = run("seal", "verify")
    assert (proves.exit_code, "✗ Nothing is sealed, so nothing is proven." in proves.stdout) == (1, True)
    fill(url, ["sealed"])
    assert seal(url) > 1
    report = looked_at(url)
    assert (report.intact, report.rows_read, report.proves_nothing) == (True, 35, False)
    assert sums(run)[1:] == (0, 6)


CHANGES = (
    ("UPDATE risk_seal_drop SET first_seq = 2 WHERE entry_id = '6-0'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET last_seq = 7 WHERE entry_id = '6-0'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET epoch = 8 WHERE entry_id = '6-0'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET trader_id = 'u' WHERE entry_id = '6-0'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET dropped_by = 'other'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET database_user = 'other'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET reason = '' WHERE entry_id = '30-0'", "what it dropped was changed"),
    ("UPDATE risk_seal_drop SET entry_id = '9-1' WHERE entry_id = '9-0'", "what it dropped was changed"),
    (
        "UPDATE risk_seal_drop SET digest = sha256('x') WHERE entry_id = '9-0'",
        "what it dropped was changed",
    ),
    ("DELETE FROM risk_seal_drop WHERE entry_id = '9-0'", "4 dead letters of 6 snapshots were dropped"),
    ("DELETE FROM risk_seal_drop", "there are 0 of 0"),
    (
        'INSERT INTO risk_seal_drop SELECT (jsonb_populate_record(d, \'{"entry_id": "7-0",'
        ' "first_seq": 7, "last_seq": 7}\')).* FROM risk_seal_drop d WHERE entry_id = \'9-0\'',
        "there are 5 of 7",
    ),
    ("UPDATE risk_seal_drop SET run = run + 100", "4 dropped dead letters have no entry"),
    ("UPDATE risk_seal_drop SET run = 1", "4 dropped dead letters have no entry 1"),
    (
        "UPDATE risk_seal_run SET kind = 'expired', expired_until = '2000-01-01' WHERE kind = 'dropped'",
        "head",
    ),
    ("UPDATE risk_seal_run SET rows = 7 WHERE kind = 'dropped'", "its head is not that of its columns"),
    ("UPDATE risk_seal_run SET digest = sha256('x') WHERE kind = 'dropped'", "its head is not that"),
    ("DELETE FROM risk_seal_run WHERE kind = 'dropped'", "4 dropped dead letters have no entry"),
)
"""What is done to the entry, and how `seal verify` names it."""


def test_a_changed_entry_is_named(url: str, run: Any, admin: psycopg.Connection) -> None:
    fill(url, ["sealed"])
    seal(url)
    drop_all(run)
    for table in ("risk_seal_drop", "risk_seal_run"):
        admin.execute(f"CREATE TABLE kept_{table} AS TABLE {table}".encode())
    for change, named in CHANGES:
        assert looked_at(url).intact
        assert admin.execute(change.encode()).rowcount >= 1
        assert named in " ".join(finding.message for finding in looked_at(url).findings), change
        for table in ("risk_seal_drop", "risk_seal_run"):
            admin.execute(f"DELETE FROM {table}; INSERT INTO {table} TABLE kept_{table}".encode())
    admin.execute(CHANGES[0][0].encode())
    assert run("seal", "verify").exit_code == 1


def test_an_entry_that_is_cut_off_leaves_a_loss_and_a_kept_head(
    url: str, run: Any, admin: psycopg.Connection
) -> None:
    fill(url, ["sealed"])
    seal(url)
    head = drop_all(run)
    admin.execute("DELETE FROM risk_seal_run WHERE kind = 'dropped'; DELETE FROM risk_seal_drop")
    assert looked_at(url).intact, "by itself it is as if nothing had been dropped"
    [found] = looked_at(url, head).findings
    assert "whose head was kept, is not there" in found.message
    assert sums(run)[1:] == (0, 0)
    assert "t, epoch 7: lost seq 3 to 7 (5)" in run("verify", "--trader", "t").stdout


def test_a_removal_without_an_entry_is_a_loss(url: str, run: Any, admin: psycopg.Connection) -> None:
    admin.execute("DELETE FROM risk_dead_letter WHERE entry_id IN ('6-0', '20-0')")
    assert sums(run) == (6, 2, 0)
    text = run("verify").stdout
    assert "t, epoch 7: lost seq 3 to 7 (5)" in text
    assert f"{SHOWN}, epoch 7: lost seq 1" in text


def test_a_false_entry_without_the_chain_hides_no_loss(url: str, run: Any, admin: psycopg.Connection) -> None:
    """One that is added to the chain as riskstream does it stays there, and is listed with the user."""
    false = (
        "INSERT INTO risk_seal_drop (run, stream, entry_id, trader_id, epoch, first_seq, last_seq, reason,"
        " dropped_by, digest) VALUES (1, 's', '7-0', 't', 7, 7, 7, '', 'x@y', '')"
    )
    admin.execute(false.encode())
    assert sums(run) == (1, 4, 0)
    assert "1 dropped dead letters have no entry 1" in run("seal", "verify").stdout
    drops.add_entry(admin, 1)
    assert sums(run) == (0, 4, 1)
    assert (
        "1 dead letters were dropped by operators, in 1 entries, the last 1" in run("seal", "verify").stdout
    )
    assert f"x@y as {admin.info.user}" in run("dead", "dropped").stdout


def test_the_list_is_append_only(url: str, run: Any, db: psycopg.Connection) -> None:
    drop_all(run)
    for statement in (
        "UPDATE risk_seal_drop SET reason = ''",
        "DELETE FROM risk_seal_drop",
        "TRUNCATE risk_seal_drop",
    ):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            db.execute(statement.encode())


def test_one_at_a_time_adds_to_the_chain(
    url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "WAIT", "50ms")
    with db.transaction():
        lock(db)
        with pytest.raises(ChainBusy, match="nothing was dropped"):
            drop(url, DeadLetterFilter(), by="x@y")
    assert rows(db, "SELECT count(*) FROM risk_dead_letter") == [(4,)]


def test_it_is_all_or_nothing(url: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(SQL, "add_dropped", "SELECT * FROM nowhere")
        with pytest.raises(Exception, match="nowhere"):
            drop(url, DeadLetterFilter(), by="x@y")
    counts = "SELECT (SELECT count(*) FROM risk_dead_letter), (SELECT count(*) FROM risk_seal_drop)"
    assert rows(db, counts) == [(4, 0)]
    monkeypatch.setattr(module, "AT_ONCE", 1)
    entry = drop(url, DeadLetterFilter(), by="x@y")
    assert entry is not None
    assert (entry.leaves, entry.rows) == (4, 6)
    assert rows(db, counts) == [(0, 4)]
