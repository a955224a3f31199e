"""Entries that cannot be snapshots, or cannot be stored: dead letters, once, and the stream goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from risk_producer.contract import wire
from risk_worker.database.store import PostgresStore
from risk_worker.stream.source import StreamSource
from tests.support import factory
from tests.support.ledger import KEYS, Ledger, drain_all
from tests.support.reads import read_batch

SOUND = json.loads(factory.payload("p", 1))
MEGABYTE = 1024 * 1024


def changed(**fields: Any) -> bytes:
    return json.dumps({**SOUND, **fields}).encode()


def without(field: str) -> bytes:
    return json.dumps({name: value for name, value in SOUND.items() if name != field}).encode()


def raw(field: str, literal: bytes) -> bytes:
    """The field with these bytes for its value."""
    return changed(**{field: "@"}).replace(b'"@"', literal)


POISON = {
    "empty": b"",
    "no JSON": b"\x00\x01\x02\xff",
    "another JSON": b"[1, 2]",
    "null": b"null",
    "half of one": changed()[:-40],
    "one and a half": changed() + b"{",
    "not UTF-8": raw("reason", b'"\xff\xfe"'),
    "a surrogate in bytes": raw("reason", b'"\xed\xa0\x80"'),
    "a surrogate escaped": raw("reason", b'"\\ud800"'),
    "NUL in reason": changed(reason="a\0b"),
    "NUL in trader_id": changed(trader_id="\0"),
    "a bare NUL": raw("reason", b'"\0"'),
    "unknown version": changed(v=2),
    "a version beyond all numbers": raw("v", b"9" * 400),
    "unknown version, other fields": b'{"v": 2, "trader": "p"}',
    "a wrong field before a deep one": raw("trader_id", b"1")[:-1]
    + b', "z": '
    + b"[" * 90_000
    + b"]" * 90_000
    + b"}",
    "deep": b"[" * 100_000,
    "no version": without("v"),
    "no trader_id": without("trader_id"),
    "no recorded_at": without("recorded_at"),
    "no seq": without("seq"),
    "trader_id too long": changed(trader_id="x" * 256),
    "no characters": changed(trader_id=""),
    "reason too long": changed(reason="x" * 1025),
    "seq 0": changed(seq=0),
    "seq beyond bigint": changed(seq=2**63),
    "epoch beyond bigint": changed(epoch=2**63),
    "seq that a double cannot hold": changed(seq=2**53 + 1),
    "epoch that a double cannot hold": changed(epoch=2**53),
    "merged beyond int": changed(merged=2**31, seq=2**40),
    "merged more than came before": changed(merged=3, seq=2),
    "infinite": raw("daily_pnl", b"1e999"),
    "not a number": raw("daily_pnl", b"NaN"),
    "a text for a number": changed(daily_pnl="1"),
    "recorded in the year 1": changed(recorded_at="0001-01-01T00:00:00Z"),
    "recorded in the year 9999": changed(recorded_at="9999-12-31T23:59:59Z"),
    "recorded in no time zone": changed(recorded_at="2026-01-01T00:00:00"),
    "recorded never": changed(recorded_at="infinity"),
    "paused beyond the year 9999": changed(paused_until="9999-12-31T23:59:59-05:00"),
    "reset before the year 1": changed(last_reset_time="0001-01-01T00:00:00+05:00"),
    "10 MB": b"x" * 10 * MEGABYTE,
    "10 MB of JSON": changed(reason="x" * 10 * MEGABYTE),
}
# Odd, but what they say can be stored and read again.
ODD = {
    "paused until the last moment": changed(paused_until="9999-12-31T23:59:59.999999Z"),
    "paused until the first one": changed(paused_until="0001-01-01T00:00:00Z"),
    "reset at the last moment": changed(last_reset_time="9999-12-31T18:59:59-05:00"),
    "a tiny number": raw("daily_pnl", b"1e-400"),
    "a huge number": raw("daily_pnl", b"1.7e308"),
    "all of them huge": changed(daily_pnl=1.7e308, drawdown_pct=1.7e308, current_equity=-1.7e308),
    "the last seq": changed(seq=2**53 - 1, epoch=2**53 - 1, merged=2**31 - 1),
    "a field more": changed(colour="green"),
    "every character": changed(trader_id="".join(map(chr, (1, 9, 10, 0x2028, 0xFFFF, 0x10FFFF))) + "\\"),
}


def put(client: Any, payload: bytes) -> str:
    entry_id: bytes = client.xadd(KEYS.snapshots, {b"s": payload})
    return entry_id.decode()


def dead_letters(db: psycopg.Connection) -> list[Any]:
    return db.execute("SELECT entry_id, payload FROM risk_dead_letter ORDER BY 1").fetchall()


@pytest.mark.parametrize("payload", POISON.values(), ids=POISON)
def test_poison_is_buried_once_with_its_bytes_and_stops_nothing(
    payload: bytes, ledger: Ledger, client: Any, db: psycopg.Connection, redis_url: str, database_url: str
) -> None:
    ledger.report(1)
    ledger.poison(payload)
    ledger.report(1)
    source = StreamSource(client, [0], block_s=0.01)
    with PostgresStore(database_url) as store:
        store.save(read_batch(source))  # and the worker dies: nothing acknowledged
    assert drain_all(redis_url, database_url) == 3
    ledger.check(duplicates=2)


@pytest.mark.parametrize("payload", ODD.values(), ids=ODD)
def test_what_is_only_odd_is_stored_and_can_be_read_again(
    payload: bytes, client: Any, db: psycopg.Connection, redis_url: str, database_url: str
) -> None:
    put(client, payload)
    assert drain_all(redis_url, database_url) == 1
    assert dead_letters(db) == []
    expected = wire.decode(payload)
    for table in ("risk_state", "risk_state_history"):
        rows = db.execute(
            "SELECT trader_id, epoch, seq, recorded_at, daily_pnl, paused_until, last_reset_time"
            f" FROM {table}".encode()
        ).fetchall()
        assert rows == [
            (
                expected.trader_id,
                expected.epoch,
                expected.seq,
                expected.recorded_at,
                expected.daily_pnl,
                expected.paused_until,
                expected.last_reset_time,
            )
        ]


@pytest.mark.parametrize(
    "fields",
    [
        ["s"],
        ["x", "1"],
        ["s", "{}", "s", "{}"],
        ["S", "{}"],
        ["", ""],
        [b"\xff\x00", b"\xfe"],
        ["a", "b"] * 500,
    ],
    ids=["odd", "another field", "twice s", "capital", "nothing", "bytes", "1,000 fields"],
)
def test_what_somebody_added_by_hand_is_buried(
    fields: list[Any],
    ledger: Ledger,
    client: Any,
    db: psycopg.Connection,
    redis_url: str,
    database_url: str,
) -> None:
    if len(fields) == 1:
        fields = [*fields, "spoilt"]
    ledger.report(1)
    entry_id = client.execute_command("XADD", KEYS.snapshots, "*", *fields).decode()
    ledger.report(1)
    assert drain_all(redis_url, database_url) == 3
    assert ledger.is_stored()
    [(buried, payload)] = dead_letters(db)
    assert buried == entry_id
    assert payload


def test_a_stream_of_nothing_but_poison_is_emptied(
    client: Any, db: psycopg.Connection, redis_url: str, database_url: str
) -> None:
    ids = [put(client, b"nonsense %d" % number) for number in range(500)]
    assert drain_all(redis_url, database_url, batch_size=100) == 500
    assert [entry_id for entry_id, _ in dead_letters(db)] == sorted(ids)
    assert client.hget(KEYS.counters, "dead") == b"500"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_huge_entries_do_not_blow_the_worker_up(
    client: Any, db: psycopg.Connection, redis_url: str, database_url: str
) -> None:
    """A quarter of what a read may bring, and of 10 MB; with these it is the same, and takes long."""
    for _ in range(30):
        put(client, b"x" * (5 * MEGABYTE // 2))
    code = (
        "import re, sys\n"
        "from risk_worker.stream import source\n"
        "from tests.support.ledger import drain_all\n"
        "source._READ_BYTES //= 4\n"
        "assert drain_all(sys.argv[1], sys.argv[2]) == 30\n"
        "print(re.search(r'VmHWM:\\s+([0-9]+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, redis_url, database_url], capture_output=True, text=True, check=True
    )
    assert db.execute("SELECT count(*) FROM risk_dead_letter").fetchone() == (30,)
    assert int(done.stdout) / 1024 < 110, "MiB; all of them, beside the 60 of a worker, would be 135"
