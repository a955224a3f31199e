"""docs/upgrade.md: a worker stores entries of every version, and keeps those of a newer one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg.rows import dict_row

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_worker.database import migrations
from tests.golden.make import PAUSED, PLAIN
from tests.support.ledger import drain_all
from tests.support.redis import stream_of

KEYS = Keys(0)
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("v*.jsonl"))
SPOOLS = sorted((Path(__file__).parents[1] / "golden").glob("spool-*"))


def send(client: redis.Redis, entries: list[bytes]) -> None:
    """Put entries into the stream as an older producer's script does."""
    for entry in entries:
        read = json.loads(entry)
        client.xadd(KEYS.snapshots, {"s": entry})
        client.hset(KEYS.epochs, read["trader_id"], read["epoch"])
        client.hset(KEYS.admitted, f"{read['epoch']}:{read['trader_id']}", read["seq"])


def table_of(database_url: str, table: str) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY trader_id").fetchall()


def row_of(entry: bytes) -> dict[str, Any]:
    """The columns that an entry has to become. What a version lacks has the default of the contract."""
    read = {"merged": 0, **json.loads(entry)}
    for name in ("recorded_at", "paused_until", "last_reset_time"):
        read[name] = read[name] and datetime.fromisoformat(read[name])
    return {name: value for name, value in read.items() if name != "v"}


def stored(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("stored_at", "updated_at")}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_each_released_version_is_stored(
    path: Path, redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    entries = path.read_bytes().splitlines()
    expected = sorted((row_of(entry) for entry in entries), key=lambda row: row["trader_id"].encode())
    send(redis_client, entries)
    drain_all(redis_url, database_url)
    assert [stored(row) for row in table_of(database_url, "risk_state_history")] == expected
    states = [{name: value for name, value in row.items() if name != "merged"} for row in expected]
    of_none = {"namespace": None}
    found = [stored(row) for row in table_of(database_url, "risk_state")]
    assert found == [{**state, **of_none} for state in states]
    assert table_of(database_url, "risk_dead_letter") == []
    assert redis_client.xlen(KEYS.snapshots) == 0


def test_versions_may_be_mixed_and_newer_ones_are_kept(
    redis_url: str, redis_client: redis.Redis, database_url: str
) -> None:
    entry = json.loads(GOLDEN[0].read_bytes().splitlines()[0])
    later_field = json.dumps({**entry, "trader_id": "later-field", "desk": {"name": "x"}}).encode()
    later_version = json.dumps({**entry, "trader_id": "later-version", "v": 999}).encode()
    send(redis_client, [later_version, later_field, json.dumps(entry).encode()])
    drain_all(redis_url, database_url)
    assert [row["trader_id"] for row in table_of(database_url, "risk_state_history")] == ["later-field", "t1"]
    [dead] = table_of(database_url, "risk_dead_letter")
    assert bytes(dead["payload"]) == later_version
    assert "version 999" in dead["reason"]
    assert (dead["trader_id"], dead["epoch"], dead["seq"]) == ("later-version", 1, 1)


def test_the_version_before_starts_on_newer_tables(database_url: str, tmp_path: Path) -> None:
    """A worker migrates when it starts; one that lacks the newest file must let the tables be."""
    *older, _ = sorted((Path(__file__).parents[2] / "db" / "migrations").glob("*.sql"))
    for path in older:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = migrations.schema_of(database_url)
    assert migrations.up(database_url, folder=tmp_path) == "Nothing to apply"
    assert migrations.schema_of(database_url) == before


def test_a_migration_keeps_every_column_and_key(empty_database_url: str, tmp_path: Path) -> None:
    """Also one that makes a table anew: what the version before reads and writes is there under its name."""
    columns = """
        SELECT table_name::text || '.' || column_name, (data_type::text, column_default, is_nullable::text)
        FROM information_schema.columns WHERE table_schema = current_schema()
    """
    keys = """
        SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE contype = 'p' AND connamespace = current_schema()::regnamespace
    """
    known: dict[str, Any] = {}
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        for path in sorted((Path(__file__).parents[2] / "db" / "migrations").glob("*.sql")):
            (tmp_path / path.name).write_bytes(path.read_bytes())
            migrations.up(empty_database_url, folder=tmp_path)
            found = dict([*db.execute(columns).fetchall(), *db.execute(keys).fetchall()])
            assert {name: found.get(name) for name in known} == known, path.name
            known = found


@pytest.mark.parametrize("folder", SPOOLS, ids=lambda folder: folder.name)
def test_each_released_spool_is_sent(
    folder: Path, tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with RiskProducer(redis_url, spool_dir=str(tmp_path)) as producer:
        assert producer.flush(timeout=10)
    sent = stream_of(redis_client)
    assert {each.trader_id: each.snapshot for each in sent} == {
        each.trader_id: each for each in (PLAIN, PAUSED)
    }
    assert [each.seq for each in sent] == [1, 1]
