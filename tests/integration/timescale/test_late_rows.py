"""Rows that come late, and replays, into chunks that are compressed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from risk_worker.audit import ledger
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Outcome, StreamEntry, decode_entries
from risk_worker.seal.sealer import Sealer
from risk_worker.seal.verify import verify
from tests.integration.timescale.conftest import Run
from tests.support.database import STREAM, rows
from tests.support.factory import entry, payload
from tests.support.history import DAY, TODAY

TRADERS = [f"t{number}" for number in range(10)]
BEGIN = TODAY - 60 * DAY


def entries(seqs: Sequence[int]) -> list[StreamEntry]:
    """Of each trader, one in two hours from BEGIN on."""
    made = [
        payload(trader, seq, recorded_at=BEGIN + seq * timedelta(hours=2))
        for seq in seqs
        for trader in TRADERS
    ]
    return [entry(number, data) for number, data in enumerate(made, start=1)]


def save(url: str, seqs: Sequence[int]) -> Outcome:
    with PostgresStore(url) as store:
        return store.save(decode_entries(STREAM, entries(seqs)))


def count(db: psycopg.Connection) -> Any:
    return rows(db, "SELECT count(*), count(DISTINCT (trader_id, seq)) FROM risk_state_history")


@pytest.fixture
def compressed_url(enabled_url: str) -> str:
    """Every second row of 40 days, compressed."""
    save(enabled_url, range(2, 481, 2))
    compress(enabled_url)
    return enabled_url


def compress(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")


@pytest.mark.parametrize("limit", [None, 10])
def test_each_is_stored_once(compressed_url: str, limit: int | None) -> None:
    """limit: of how much a transaction may decompress; a batch may touch any number of rows."""
    with psycopg.connect(compressed_url, autocommit=True) as db:
        if limit is not None:
            db.execute(
                f"ALTER DATABASE {db.info.dbname} SET"
                f" timescaledb.max_tuples_decompressed_per_dml_transaction = {limit}".encode()
            )
        assert save(compressed_url, range(2, 481, 2)) == Outcome([], duplicates=2400), "a replay"
        assert save(compressed_url, range(1, 481, 2)) == Outcome([], duplicates=0), "late rows"
        assert save(compressed_url, range(1, 491)) == Outcome([], duplicates=4800), (
            "some of each, and new ones"
        )
        assert count(db) == [(4900, 4900)]
        for trader in TRADERS:
            assert rows(db, f"SELECT seq FROM risk_state WHERE trader_id = '{trader}'") == [(490,)]
        with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
            db.execute("DELETE FROM risk_state_history WHERE seq = 2")
        compress(compressed_url)
        assert count(db) == [(4900, 4900)]
        assert save(compressed_url, range(1, 491)) == Outcome([], duplicates=4900)


def test_a_chunk_that_is_compressed_again_beside_verify(
    enabled_url: str, redis_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot from before does not see its late rows, of which the newest of a trader may be one."""
    save(enabled_url, range(1, 120))
    compress(enabled_url)
    late = [entry(1, payload("t0", 120, recorded_at=BEGIN + timedelta(hours=3)))]
    with PostgresStore(enabled_url) as store:
        assert store.save(decode_entries(STREAM, late)) == Outcome([], duplicates=0)
    read = ledger._read_dead_letters
    looks: list[object] = []

    def meanwhile(*arguments: Any) -> Any:
        if not looks:
            compress(enabled_url)
        looks.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(ledger, "_read_dead_letters", meanwhile)
    done = run(enabled_url, "verify", REDIS_URL=redis_url)
    assert done.exit_code == 0, done.output
    assert len(looks) == 2


def test_seals_hold_over_it(compressed_url: str, run: Run) -> None:
    save(compressed_url, range(1, 481, 2))
    with psycopg.connect(compressed_url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET stored_at = stored_at - interval '2 days'")
    with Sealer(compressed_url, DAY) as sealer:
        assert sum(sealed.rows for sealed in sealer.seal()) == 4800
    assert verify(compressed_url, deep=True).intact
    compress(compressed_url)
    report = verify(compressed_url, deep=True)
    assert (report.intact, report.rows_read) == (True, 4800)
    with psycopg.connect(compressed_url, autocommit=True) as db:
        db.execute("SELECT decompress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    assert verify(compressed_url, deep=True).intact
