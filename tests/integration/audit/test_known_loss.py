"""Losses that an operator accepts: recorded where they are really lost, shown, undone, and never removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from risk_producer.contract.keys import Keys
from risk_worker.audit import known_loss
from risk_worker.audit.known_loss import NotAccepted
from risk_worker.cli import cli
from risk_worker.seal.sealer import WINDOWS, Sealer
from tests.support.database import store_entries
from tests.support.factory import START, entry, payload

EPOCH = 7
REASON = ("--reason", "the disk was full")
Verify = Callable[..., Result]


@pytest.fixture
def verify(environ: dict[str, str]) -> Verify:
    return lambda *words: CliRunner().invoke(cli, ["verify", *map(str, words)], env=environ)


@pytest.fixture
def losses(redis_client: redis.Redis, database_url: str) -> None:
    """Of 12 accepted, 1, 4 and 9 are stored, 6 is a dead letter, 11 in flight; recorded an hour apart."""
    hour = timedelta(hours=1)
    good = [entry(seq, payload("t", seq, epoch=EPOCH, recorded_at=START + seq * hour)) for seq in (1, 4, 9)]
    bad = payload("t", 6, epoch=EPOCH).replace(b'"reason":""', b'"reason":"' + b"x" * 1_025 + b'"')
    store_entries(database_url, *good, entry(6, bad))
    redis_client.xadd(Keys(0).snapshots, {"s": payload("t", 11, epoch=EPOCH)})
    redis_client.hset(Keys(0).admitted, f"{EPOCH}:t", 12)


def said(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if found["reconciled"] else 1)
    return found


@pytest.mark.usefixtures("losses")
def test_what_is_accepted_is_shown_and_no_problem_until_it_is_undone(
    verify: Verify, database_url: str
) -> None:
    assert said(verify("--json"))["lost"] == 7
    for number, numbers in enumerate(("2-3", "5", "7-8", "10", "12"), 1):
        done = verify("accept", "t", EPOCH, numbers, *REASON)
        assert (done.exit_code, done.output) == (
            0,
            f"Recorded as known loss {number}; riskstream verify undo {number} undoes it\n",
        )
    found = said(verify("--json"))
    assert (found["reconciled"], found["lost"], found["known_lost"]) == (True, 0, 7)
    assert [each["number"] for each in found["known_losses"]] == [1, 2, 3, 4, 5]
    text = verify().stdout
    assert "known loss 3: t, epoch 7, seq 7 to 8 (2), accepted by " in text
    assert "the disk was full" in text

    assert verify("undo", 3, "--reason", "found on a backup").exit_code == 0
    found = said(verify("--json"))
    assert (found["reconciled"], found["lost"], found["known_lost"]) == (False, 2, 5)
    listed = verify("known", "--trader", "t").stdout.splitlines()
    assert len(listed) == 6
    assert "seq 7 to 8 (2): accepted as lost, undone by 6: the disk was full" in listed[2]
    assert "seq 7 to 8 (2): undoes 3: found on a backup" in listed[5]
    assert verify("known", "--trader", "u").stdout == "No loss was accepted.\n"

    assert verify("accept", "t", EPOCH, "7-8", *REASON).exit_code == 0, "it may be accepted again"
    assert said(verify("--json"))["reconciled"]
    with psycopg.connect(database_url) as db:
        [who] = db.execute("SELECT DISTINCT recorded_by, database_user FROM risk_known_loss").fetchall()
    assert "@" in who[0] and who[1]


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("t", EPOCH, "4"), "not lost are seq 4:"),
        (("t", EPOCH, "1-12"), "not lost are seq 1, seq 4, seq 6, seq 9, seq 11:"),
        (("t", EPOCH, "2-4"), "Lost: epoch 7, seq 2 to 3 (2), epoch 7, seq 5, "),
        (("t", EPOCH, "6"), "not lost are seq 6:"),
        (("t", EPOCH, "11-12"), "not lost are seq 11:"),
        (("t", EPOCH, "12-13"), "not lost are seq 13:"),
        (("t", 8, "2"), "t has no epoch 8. Lost: epoch 7, seq 2 to 3 (2)"),
        (("u", EPOCH, "2"), "neither Redis nor Postgres knows a snapshot of 'u'"),
    ],
)
def test_what_is_not_lost_is_refused(verify: Verify, words: tuple[Any, ...], says: str) -> None:
    refused = verify("accept", *words, *REASON)
    assert refused.exit_code == 2
    assert says in refused.stderr
    assert verify("known").stdout == "No loss was accepted.\n"


@pytest.mark.usefixtures("losses")
def test_what_cannot_be_decided_is_refused(verify: Verify, redis_client: redis.Redis) -> None:
    redis_client.delete(Keys(0).snapshots)
    redis_client.set(Keys(0).snapshots, "no stream")
    refused = verify("accept", "t", EPOCH, "2", *REASON)
    assert refused.exit_code == 2
    assert "cannot be decided while a part of Redis cannot be read" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("t", EPOCH, numbers, *REASON)
            for numbers in ("", "0", "3-2", "a", "1-", "-1", "1-2-3", "1" * 17, "²")
        ),
        ("t", "x", "1", *REASON),
        ("t", -1, "1", *REASON),
        ("t", EPOCH, "1"),
        *(("t", EPOCH, "1", "--reason", text) for text in ("", "  \n ", "x" * 2_001, "a\0b")),
    ],
)
def test_what_is_asked_wrongly_is_refused(verify: Verify, words: tuple[Any, ...]) -> None:
    assert verify("accept", *words).exit_code == 2


@pytest.mark.usefixtures("losses")
def test_what_comes_after_all_is_named(verify: Verify, database_url: str) -> None:
    verify("accept", "t", EPOCH, "7-8", *REASON)
    store_entries(database_url, entry(8, payload("t", 8, epoch=EPOCH, recorded_at=START)))
    found = said(verify("--json"))
    assert found["lost_no_longer"] == [
        "t, epoch 7: seq 8 is there after all, and was accepted as lost; riskstream verify undo 1"
    ]
    assert found["known_lost"] == 1
    verify("undo", 1, "--reason", "it came")
    verify("accept", "t", EPOCH, "7", *REASON)
    assert said(verify("--json"))["lost_no_longer"] == []


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize("sealed", [False, True])
def test_losses_before_a_time_are_no_problem(
    verify: Verify, database_url: str, db: psycopg.Connection, sealed: bool
) -> None:
    if sealed:
        db.execute("ALTER TABLE risk_state_history DISABLE TRIGGER USER")
        db.execute("UPDATE risk_state_history SET stored_at = stored_at - interval '3 hours'")
        db.execute("ALTER TABLE risk_state_history ENABLE TRIGGER USER")
        with Sealer(database_url, WINDOWS["1h"]) as sealer:
            assert sum(run.rows for run in sealer.seal()) == 3
    since = (START + timedelta(hours=4, minutes=1)).isoformat()
    found = said(verify("--json", "--since", since))
    assert (found["lost"], found["lost_earlier"], found["reconciled"]) == (5, 2, False)
    since = (START + timedelta(hours=9, minutes=1)).isoformat()
    found = said(verify("--json", "--since", since))
    assert (found["lost"], found["lost_earlier"]) == (2, 5), "when 10 and 12 were lost is not known"
    for number in ("10", "12"):
        verify("accept", "t", EPOCH, number, *REASON)
    assert said(verify("--json", "--since", since))["reconciled"]
    assert "5 are lost" not in verify("--since", since).stdout
    assert "7 are lost and no others" in verify("--since", since).stdout


def test_entries_are_append_only_and_two_do_not_overlap(database_url: str, db: psycopg.Connection) -> None:
    first = known_loss.record(database_url, "t", 1, (5, 9), reason="x", by="a@b")
    for numbers in ((1, 5), (9, 9), (6, 7), (1, 20)):
        with pytest.raises(NotAccepted, match="are accepted as lost already"):
            known_loss.record(database_url, "t", 1, numbers, reason="x", by="a@b")
    known_loss.record(database_url, "t", 1, (10, 10), reason="x", by="a@b")
    known_loss.record(database_url, "t", 2, (5, 9), reason="x", by="a@b")
    undone = known_loss.undo(database_url, first, reason="x", by="a@b")
    for number in (first, undone, 99):
        with pytest.raises(NotAccepted, match=f"no known loss {number} that is in force"):
            known_loss.undo(database_url, number, reason="x", by="a@b")
    for statement in ("UPDATE risk_known_loss SET reason = 'y'", "DELETE FROM risk_known_loss"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            db.execute(statement.encode())
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        db.execute("TRUNCATE risk_known_loss CASCADE")
