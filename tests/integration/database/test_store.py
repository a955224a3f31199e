"""The worker's side of Postgres, on the real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from math import ceil, log2
from typing import Any

import msgspec
import psycopg
import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.wire import Identity, WireSnapshot
from risk_worker.database import connection, migrations
from risk_worker.database import store as module
from risk_worker.database.store import PostgresStore
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.batch import Batch, DeadLetter, Outcome, Row, StreamEntry, decode_entries
from risk_worker.drain.errors import StoreMisconfigured, StoreUnavailable
from tests.support.database import STREAM, rows
from tests.support.factory import START, entry, payload, wire
from tests.support.proxy import Proxy
from tests.support.servers import Databases, name_in, with_name
from tests.support.wait import wait_until


def batch_of(*snapshots: WireSnapshot) -> Batch:
    made = [Row(f"{n}-{s.seq}", f"payload of {s.seq}".encode(), s) for n, s in enumerate(snapshots, start=1)]
    return Batch(STREAM, made)


def test_a_batch_is_stored_whole(store: PostgresStore, db: psycopg.Connection) -> None:
    paused = wire(
        "b",
        1,
        trading_paused=True,
        paused_until=START + timedelta(hours=1),
        trace_id="trace-1",
        reason="größer\t\\N\n'",
        drawdown_pct=2.5,
        peak_equity=200.0,
    )
    outcome = store.save(batch_of(wire("a", 1), wire("a", 2), paused))
    assert outcome.duplicates == 0
    assert rows(db, "SELECT trader_id, epoch, seq FROM risk_state_history ORDER BY 1, 3") == [
        ("a", 1, 1),
        ("a", 1, 2),
        ("b", 1, 1),
    ]
    assert rows(db, "SELECT trader_id, seq, daily_pnl, current_equity FROM risk_state ORDER BY 1") == [
        ("a", 2, 2.0, 99_500.0),
        ("b", 1, 1.0, 99_500.0),
    ]
    [row] = rows(
        db,
        "SELECT trading_paused, paused_until, last_reset_time, recorded_at, trace_id, reason, daily_pnl,"
        " drawdown_pct, peak_equity FROM risk_state WHERE trader_id = 'b'",
    )
    assert row == (
        True,
        START + timedelta(hours=1),
        START,
        START + timedelta(seconds=1),
        "trace-1",
        "größer\t\\N\n'",
        1.0,
        2.5,
        200.0,
    )


def test_the_plan_of_the_states_is_kept_and_made_anew_when_the_table_changes(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    def kept() -> list[Any]:
        assert store._connection is not None
        return store._connection.execute(
            "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%INSERT INTO risk_state AS%'"
        ).fetchall()

    for seq in range(1, 10):
        store.save(batch_of(wire("a", seq)))
    assert kept() == [(9 - module._PREPARED_AFTER,)]
    db.execute("ALTER TABLE risk_state ADD COLUMN remark text DEFAULT 'none'")
    assert store.save(batch_of(wire("a", 10))).duplicates == 0
    assert rows(db, "SELECT seq, remark FROM risk_state") == [(10, "none")]
    assert store.save(batch_of(wire("a", 10), wire("a", 11))).duplicates == 1
    assert kept() == [], "psycopg gives all up with a transaction that is rolled back"
    assert store.save(batch_of(wire("a", 12))).duplicates == 0
    assert rows(db, "SELECT seq FROM risk_state") == [(12,)]


def test_a_replay_is_a_no_op(store: PostgresStore, db: psycopg.Connection) -> None:
    batch = batch_of(wire("a", 1), wire("a", 2))
    store.save(batch)
    assert store.save(batch).duplicates == 2
    assert store.save(batch_of(wire("a", 2), wire("a", 3))).duplicates == 1
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(3,)]


def test_the_same_snapshot_twice_in_a_batch_is_stored_once(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    assert store.save(batch_of(wire("a", 1), wire("a", 1))).duplicates == 1
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(1,)]


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [((1, 5), (1, 4), (1, 5)), ((2, 1), (1, 9), (2, 1)), ((1, 9), (2, 1), (2, 1)), ((1, 4), (1, 5), (1, 5))],
)
def test_state_never_goes_back(
    store: PostgresStore,
    db: psycopg.Connection,
    first: tuple[int, int],
    second: tuple[int, int],
    wins: tuple[int, int],
) -> None:
    for epoch, seq in (first, second):
        store.save(batch_of(wire("a", seq, epoch=epoch)))
    assert rows(db, "SELECT epoch, seq FROM risk_state") == [wins]
    # and in one batch, in this order
    store.save(batch_of(wire("b", first[1], epoch=first[0]), wire("b", second[1], epoch=second[0])))
    assert rows(db, "SELECT epoch, seq FROM risk_state WHERE trader_id = 'b'") == [wins]
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(4,)]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_one_bad_row_is_found_wherever_it_is(
    store: PostgresStore, db: psycopg.Connection, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def count(name: str) -> None:
        function = getattr(module, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal tries
            tries += 1
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, counted)

    count("_insert_history")
    count("_insert")
    for place in range(size):
        tries = 0
        trader = f"{size}-{place}"
        good = [wire(trader, seq) for seq in range(1, size + 1)]
        good[place] = msgspec.structs.replace(good[place], reason="\0")  # 22021: Postgres cannot hold it
        outcome = store.save(batch_of(*good))
        [letter] = outcome.dead
        assert letter.identity is not None
        assert letter.identity.seq == place + 1
        assert letter.sqlstate is not None
        assert letter.sqlstate[:2] in ("22", "23")
        assert letter.payload == f"payload of {place + 1}".encode()
        assert tries <= max(2, 2 * ceil(log2(size)) + 1)
        assert rows(db, f"SELECT count(*) FROM risk_state_history WHERE trader_id = '{trader}'") == [
            (size - 1,)
        ]
        stored = rows(db, f"SELECT seq FROM risk_state WHERE trader_id = '{trader}'")
        newest = size if place != size - 1 else size - 1
        assert stored == ([(newest,)] if newest else [])
    buried = rows(db, "SELECT count(*), count(DISTINCT entry_id), min(stream) FROM risk_dead_letter")
    assert buried == [(size, size, STREAM)]


def test_what_another_unique_index_refuses_is_a_dead_letter_and_not_taken_for_a_replay(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    db.execute("CREATE UNIQUE INDEX ON risk_state_history (trace_id, recorded_at)")
    first, second, third = (
        msgspec.structs.replace(wire("a", seq), trace_id=trace, recorded_at=START)
        for seq, trace in enumerate("xxy", 1)
    )
    outcome = store.save(batch_of(first, second, third))
    assert [letter.identity for letter in outcome.dead] == [Identity("a", second.epoch, second.seq)]
    assert outcome.duplicates == 0
    assert rows(db, "SELECT seq FROM risk_state_history ORDER BY seq") == [(1,), (3,)]


def test_dead_letters_are_stored_once_when_a_batch_is_replayed(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    bad = msgspec.structs.replace(wire("a", 2), reason="x" * 2000)  # 23514: a check of the table
    batch = batch_of(wire("a", 1), bad, wire("a", 3))
    assert [letter.entry_id for letter in store.save(batch).dead] == ["2-2"]
    assert store.save(batch).duplicates == 2
    [(reason, *letter)] = rows(
        db, "SELECT reason, entry_id, sqlstate, trader_id, epoch, seq, payload FROM risk_dead_letter"
    )
    assert letter == ["2-2", "23514", "a", 1, 2, b"payload of 2"]
    assert "risk_state" in reason


def test_a_table_that_is_missing_is_somebodys_task_and_no_rows_fault(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    db.execute("ALTER TABLE risk_state RENAME TO elsewhere")
    with pytest.raises(StoreMisconfigured, match="riskstream migrate up"):
        store.save(batch_of(wire("a", 1)))
    db.execute("ALTER TABLE elsewhere RENAME TO risk_state")
    assert store.save(batch_of(wire("a", 1))).duplicates == 0


def test_a_connection_that_was_ended_is_made_anew(store: PostgresStore, db: psycopg.Connection) -> None:
    store.save(batch_of(wire("a", 1)))
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'riskstream-worker'"
    )
    with pytest.raises(StoreUnavailable):
        store.save(batch_of(wire("a", 2)))
    assert store.save(batch_of(wire("a", 2))).duplicates == 0


def test_a_server_that_is_not_there_is_waited_for() -> None:
    with (
        PostgresStore("postgresql://nobody:hush@127.0.0.1:1/none") as away,
        pytest.raises(StoreUnavailable) as caught,
    ):
        away.save(batch_of(wire("a", 1)))
    assert "hush" not in str(caught.value)


def test_a_commit_is_on_disk_before_it_is_acknowledged(database_url: str, db: psycopg.Connection) -> None:
    db.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        with PostgresStore(database_url) as store:
            assert store._connected().execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        db.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A migrated database that cannot hold every text, or does not know what it holds."""
    url = databases.create()
    name = name_in(url)
    with psycopg.connect(with_name(url, "postgres"), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}"'.encode())
        made = f"CREATE DATABASE \"{name}\" ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C'"
        admin.execute(f"{made} TEMPLATE template0".encode())
    migrations.up(url)
    yield url
    databases.drop(url)


def test_a_text_that_the_database_cannot_hold_is_one_dead_letter_with_its_identity(narrow_url: str) -> None:
    of_reason = payload("größer", 2, reason="5 € at 東京")
    entries = [
        entry(1, payload("größer", 1)),
        entry(2, of_reason),
        entry(3, payload("東京", 3, reason="€")),
        entry(4, of_reason.replace(b'"seq":2', b'"seq":4')),
        entry(5, '{"v": 1, "trader_id": "größer", "epoch": 1, "seq": 5, "€": "€"}'.encode()),
    ]
    with PostgresStore(narrow_url) as store, psycopg.connect(narrow_url, client_encoding="utf8") as db:
        for _ in range(2):
            outcome = store.save(decode_entries(STREAM, entries))
        stored = rows(db, "SELECT seq FROM risk_state_history ORDER BY 1")
        dead = rows(db, "SELECT entry_id, trader_id, epoch, seq, payload FROM risk_dead_letter ORDER BY 1")
        [[encoding]] = rows(db, "SHOW server_encoding")
    by_entry = {each.id: each.payload for each in entries}
    assert all(bytes_of == by_entry[entry_id] for entry_id, _, _, _, bytes_of in dead)
    if encoding == "SQL_ASCII":  # it takes any bytes
        assert stored == [(1,), (2,), (3,), (4,)]
        assert [row[:4] for row in dead] == [("5-0", "größer", 1, 5)]
        return
    assert stored == [(1,)]
    assert [row[:4] for row in dead] == [
        ("2-0", "größer", 1, 2),
        ("3-0", None, 1, 3),  # the database cannot hold whose it is; the payload says it
        ("4-0", "größer", 1, 4),
        ("5-0", "größer", 1, 5),
    ]
    assert len(outcome.dead) == 4


def batch_in(partition: int, *snapshots: WireSnapshot) -> Batch:
    made = batch_of(*snapshots)
    made.stream = f"risk:{{{partition}}}:snapshots"
    return made


def test_a_name_that_the_database_cannot_hold_beside_a_foreign_entry_stops_nothing(narrow_url: str) -> None:
    def batch(namespace: str, *payloads: bytes) -> Batch:
        entries = [StreamEntry(f"{number}-0", each) for number, each in enumerate(payloads, 1)]
        return decode_entries(Keys(0, namespace).snapshots, entries)

    with PostgresStore(narrow_url, assigns_traders=True) as desks:
        desks.save(batch("desk1", payload("x", 1)))
        both = batch("desk2", payload("ж", 1), payload("x", 2), payload("y", 1))
        [outcome] = desks.save_all([both])
    with psycopg.connect(narrow_url) as db:
        assert rows(db, "SELECT seq FROM risk_state WHERE trader_id = 'x'") == [(1,)]
        assert rows(db, "SELECT seq FROM risk_state WHERE trader_id = 'y'") == [(1,)]
    assert "2-0" in {each.entry_id for each in outcome.dead}


def test_batches_of_several_streams_are_stored_in_one_transaction(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    batches = [batch_in(0, wire("a", 1), wire("a", 2)), batch_in(1, wire("b", 1)), batch_in(2)]
    batches[2].dead.append(DeadLetter("1-1", "no snapshot", b"x"))
    outcomes = store.save_all(batches)
    assert [(len(each.dead), each.duplicates) for each in outcomes] == [(0, 0), (0, 0), (1, 0)]
    assert len(rows(db, "SELECT DISTINCT xmin::text FROM risk_state_history")) == 1
    assert rows(db, "SELECT trader_id, seq FROM risk_state ORDER BY 1") == [("a", 2), ("b", 1)]


def test_each_batch_has_its_own_duplicates_and_dead_letters_under_its_own_stream(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    """Their entry ids may be the same."""
    db.execute("ALTER TABLE risk_state_history ADD CHECK (reason <> 'bad')")
    store.save(batch_in(1, wire("b", 1)))
    batches = [
        batch_in(0, wire("a", 1), wire("a", 2, reason="bad")),
        batch_in(1, wire("b", 1), wire("b", 2)),
        batch_in(2, wire("c", 1), wire("c", 2)),
    ]
    outcomes = store.save_all(batches)
    assert [(len(each.dead), each.duplicates) for each in outcomes] == [(1, 0), (0, 1), (0, 0)]
    assert rows(db, "SELECT trader_id, seq FROM risk_state_history ORDER BY 1, 2") == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("c", 1),
        ("c", 2),
    ]
    assert rows(db, "SELECT stream, entry_id FROM risk_dead_letter") == [("risk:{0}:snapshots", "2-2")]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_state_is_the_newest_though_a_trader_is_in_two_streams(
    store: PostgresStore, db: psycopg.Connection, order: tuple[int, int]
) -> None:
    batches = [batch_in(0, wire("a", 1), wire("a", 2)), batch_in(1, wire("a", 3))]
    store.save_all([batches[each] for each in order])
    assert rows(db, "SELECT seq FROM risk_state") == [(3,)]


def test_a_transaction_in_two_halves_is_one_transaction(store: PostgresStore, db: psycopg.Connection) -> None:
    begun = store.begin([batch_of(wire("a", 1), wire("a", 2))])
    assert begun is not None
    assert store.begin([batch_of(wire("a", 3))]) is None, "there is one already"
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(0,)]
    with ThreadPoolExecutor(1) as other_thread:
        assert other_thread.submit(begun.commit).result() == [Outcome([], duplicates=0)]
    assert rows(db, "SELECT seq FROM risk_state") == [(2,)]
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(2,)]


def test_a_transaction_that_is_abandoned_leaves_nothing(store: PostgresStore, db: psycopg.Connection) -> None:
    batch = batch_of(wire("a", 1))
    for _ in range(2):
        begun = store.begin([batch])
        assert begun is not None
        begun.abandon()
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(0,)]
    assert store.save(batch).duplicates == 0


@pytest.mark.parametrize("cut", [True, False])
def test_a_transaction_over_a_connection_that_is_gone_is_abandoned(
    store: PostgresStore, db: psycopg.Connection, cut: bool
) -> None:
    batch = batch_of(wire("a", 1))
    begun = store.begin([batch])
    assert begun is not None
    if cut:
        store.cut()
    else:
        db.execute("SELECT pg_terminate_backend(%s)", store.backend_pids)
    begun.abandon()
    assert store.is_free
    assert store.save(batch).duplicates == 0


def test_rows_that_are_there_or_cannot_be_stored_are_not_begun_with(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    store.save(batch_of(wire("a", 1)))
    assert store.begin([batch_of(wire("a", 1))]) is None
    db.execute("ALTER TABLE risk_state_history ADD CHECK (reason <> 'bad')")
    assert store.begin([batch_of(wire("a", 2, reason="bad"))]) is None
    assert store.save(batch_of(wire("a", 1), wire("a", 2))).duplicates == 1


def test_a_commit_over_a_connection_that_is_gone_stores_nothing(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    batch = batch_of(wire("a", 1))
    begun = store.begin([batch])
    assert begun is not None
    store.cut()
    with pytest.raises(StoreUnavailable):
        begun.commit()
    assert rows(db, "SELECT count(*) FROM risk_state") == [(0,)]
    assert store.save(batch).duplicates == 0


def test_two_connections_hold_a_transaction_each(database_url: str, db: psycopg.Connection) -> None:
    with PostgresStores(database_url) as stores:
        first = stores.begin([batch_of(wire("a", 1))])
        second = stores.begin([batch_of(wire("a", 2))])
        assert first is not None
        assert second is not None
        assert len(set(stores.backend_pids)) == 2
        assert stores.begin([batch_of(wire("a", 3))]) is None
        first.commit()
        third = stores.begin([batch_of(wire("a", 3))])
        assert third is not None
        second.commit()
        third.commit()
        stores.save_all([batch_of(wire("a", 4))])
    assert rows(db, "SELECT seq FROM risk_state") == [(4,)]


def test_a_constraint_that_speaks_at_the_commit_finds_its_row(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.reason = 'bad' THEN RAISE check_violation USING MESSAGE = 'bad'; END IF;"
        " RETURN NULL; END$$"
    )
    db.execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON risk_state_history DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    outcome = store.save(batch_of(wire("a", 1), wire("a", 2, reason="bad"), wire("a", 3)))
    assert [letter.entry_id for letter in outcome.dead] == ["2-2"]
    assert rows(db, "SELECT seq FROM risk_state_history ORDER BY 1") == [(1,), (3,)]
    assert not store.save(batch_of(wire("a", 4))).dead


def test_who_holds_a_traders_state_waits_for_no_row_of_history(
    database_url: str, db: psycopg.Connection
) -> None:
    """The other worker may hold that row until it gets the state: Postgres sees no such deadlock, as half of
    the waiting is the other worker's own, of a COMMIT for the COMMIT before it."""
    with (
        PostgresStores(database_url) as one,
        PostgresStore(database_url) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        two.save(batch_of(wire("x", 1)))
        first, second = one.begin([batch_of(wire("x", 2))]), one.begin([batch_of(wire("y", 1))])
        assert first is not None
        assert second is not None
        again = [batch_of(wire("x", 1), wire("x", 3)), batch_of(wire("y", 1), wire("y", 2))]
        storing = pool.submit(two.save_all, again)
        [pid] = two.backend_pids
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        wait_until(
            lambda: db.execute(waits, [pid]).fetchone() == (True,), 20, "it waits for the row of history"
        )
        assert first.commit() == [Outcome([], 0)]
        assert second.commit() == [Outcome([], 0)]
        assert [outcome.duplicates for outcome in storing.result(60)] == [1, 1]
    assert rows(db, "SELECT trader_id, seq FROM risk_state ORDER BY 1") == [("x", 3), ("y", 2)]


@pytest.mark.parametrize("traders", [["zma"], ["zm", "a"]], ids=["one stream", "two streams"])
def test_two_workers_take_the_same_rows_in_the_same_order(
    database_url: str, db: psycopg.Connection, traders: list[str]
) -> None:
    """One goes the quick way and one the careful way, and they have read the streams in another order."""

    def batches() -> list[Batch]:
        made = [batch_of(*(wire(trader, 1) for trader in of)).rows for of in traders]
        return [Batch(f"{number}{STREAM}", of) for number, of in enumerate(made)]

    careful = batches()[::-1]
    for each in careful:
        each.refused = "23505"
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with (
        PostgresStore(database_url) as third,
        PostgresStore(database_url) as one,
        PostgresStore(database_url) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        begun = third.begin([batch_of(wire("m", 1))])  # the row in the middle
        assert begun is not None
        quick = pool.submit(one.save_all, batches())
        wait_until(lambda: rows(db, waiting) == [(1,)], 20, "the quick way waits")
        slow = pool.submit(two.save_all, careful)
        wait_until(lambda: rows(db, waiting) == [(2,)], 20, "the careful way waits")
        begun.abandon()
        assert sum(outcome.duplicates for outcome in quick.result(60)) == 0
        assert sum(outcome.duplicates for outcome in slow.result(60)) == 3
    assert rows(db, "SELECT count(*) FROM risk_state_history") == [(3,)]


@pytest.mark.parametrize(
    ("bad", "copies"),
    [
        pytest.param("", [2, 2], id="a replay: the quick way once, then the careful way"),
        pytest.param("\0", [2, 1, 1], id="a row at fault: each half"),
    ],
)
def test_rows_that_were_refused_together_are_not_tried_so_again(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, bad: str, copies: list[int]
) -> None:
    copy, seen = module._copy, []

    def counted(cursor: Any, statement: Any, found: Any) -> None:
        seen.append(len(found))
        copy(cursor, statement, found)

    if not bad:
        store.save(batch_of(wire("a", 1)))
    monkeypatch.setattr(module, "_copy", counted)
    batches = [batch_of(msgspec.structs.replace(wire("a", 1), reason=bad), wire("a", 2))]
    assert store.begin(batches) is None
    store.save_all(batches)
    assert seen == copies


def test_a_row_whose_state_alone_is_refused_is_a_dead_letter(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    """By a constraint that somebody added to risk_state: the state is the newest that it takes."""
    db.execute("ALTER TABLE risk_state ADD CHECK (reason <> 'bad')")
    batches = [
        batch_of(wire("a", 1), wire("a", 2, reason="bad")),
        Batch(f"other{STREAM}", batch_of(wire("b", 1)).rows),
    ]
    outcomes = store.save_all(batches)
    assert [[letter.entry_id for letter in outcome.dead] for outcome in outcomes] == [["2-2"], []]
    assert rows(db, "SELECT trader_id, seq FROM risk_state ORDER BY 1") == [("a", 1), ("b", 1)]
    assert rows(db, "SELECT trader_id, seq FROM risk_state_history ORDER BY 1") == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("owner", "asks"),
    [(connection.Connection, "_prepare"), (PostgresStore, "_opened"), (module, "identity_of")],
)
def test_a_server_that_does_not_answer_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, owner: Any, asks: str
) -> None:
    """The question has gone over the link, which swallows the answer, and nothing ends the waiting."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)
    with Proxy(database_url) as proxy, PostgresStore(proxy.url) as asked:
        ask = getattr(owner, asks)

        def hang(*arguments: Any) -> Any:
            proxy.swallowing = True
            return ask(*arguments)

        monkeypatch.setattr(owner, asks, hang)
        with pytest.raises(StoreUnavailable):
            asked.identity()
        proxy.heal()
