"""What came by another namespace than its trader's changes nothing of the trader, whoever stores it when."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any

import psycopg
import pytest

from risk_producer.contract.keys import Keys
from risk_worker.database import store as module
from risk_worker.database.store import PostgresStore
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.batch import Batch, Outcome, StreamEntry, decode_entries
from risk_worker.drain.errors import StoreUnavailable
from risk_worker.drain.overlap import Overlap
from risk_worker.drain.uncommitted import Uncommitted
from tests.support.database import rows
from tests.support.factory import payload

BELONGS = "the trader 'x' belongs to namespace desk1, and this came by namespace desk2"


def batch(namespace: str, *payloads: bytes, partition: int = 0, first: int = 1) -> Batch:
    entries = [StreamEntry(f"{number}-0", each) for number, each in enumerate(payloads, first)]
    return decode_entries(Keys(partition, namespace).snapshots, entries)


def dead(outcomes: Sequence[Outcome]) -> list[list[str]]:
    return [[each.reason for each in outcome.dead] for outcome in outcomes]


def stored(db: psycopg.Connection) -> list[Any]:
    return rows(db, "SELECT trader_id, epoch, seq, reason FROM risk_state_history ORDER BY 1, 2, 3")


def states(db: psycopg.Connection) -> list[Any]:
    return rows(db, "SELECT trader_id, epoch, seq, reason, namespace FROM risk_state ORDER BY 1")


@pytest.fixture
def desks(database_url: str) -> Any:
    with PostgresStore(database_url, assigns_traders=True) as opened:
        yield opened


class TestTheFirstThatReportsATraderHasIt:
    def test_what_comes_by_another_one_is_a_dead_letter(
        self, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        desks.save(batch("desk1", payload("x", 1, epoch=5, reason="one"), payload("y", 1)))
        before = states(db)
        assert before == [("x", 5, 1, "one", "desk1"), ("y", 1, 1, "", "desk1")]
        forged = batch("desk2", payload("x", 9, epoch=6), payload("z", 1), payload("x", 10, epoch=6))
        [outcome] = desks.save_all([forged])
        assert [each.reason for each in outcome.dead] == [BELONGS, BELONGS]
        assert states(db) == [*before, ("z", 1, 1, "", "desk2")]
        assert [row[:3] for row in stored(db)] == [("x", 5, 1), ("y", 1, 1), ("z", 1, 1)]
        # It names no snapshot of the trader, so that nothing that is counted for it changes.
        assert rows(db, "SELECT stream, entry_id, reason, trader_id, epoch, seq FROM risk_dead_letter") == [
            (Keys(0, "desk2").snapshots, f"{number}-0", BELONGS, None, None, None) for number in (1, 3)
        ]

    def test_the_same_bytes_once_more_are_refused_too(
        self, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        """History has the row, so that storing it again would be a no-op that tells nothing."""
        copied = payload("x", 1)
        desks.save(batch("desk1", copied))
        before = stored(db), states(db)
        for replay in range(2):
            [outcome] = desks.save_all([batch("desk2", copied)])
            assert (replay, dead([outcome])) == (replay, [[BELONGS]])
        assert (stored(db), states(db)) == before

    def test_an_older_one_is_refused_too(self, desks: PostgresStore, db: psycopg.Connection) -> None:
        desks.save(batch("desk1", payload("x", 5, epoch=5)))
        assert dead(desks.save_all([batch("desk2", payload("x", 1, epoch=2))])) == [[BELONGS]]
        assert [row[:3] for row in stored(db)] == [("x", 5, 5)]

    def test_within_one_transaction_the_first_counts(
        self, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        one, two = (
            batch("desk1", payload("x", 1, reason="one")),
            batch("desk2", payload("x", 2), payload("z", 1)),
        )
        assert dead(desks.save_all([one, two])) == [[], [BELONGS]]
        assert states(db) == [("x", 1, 1, "one", "desk1"), ("z", 1, 1, "", "desk2")]

    def test_dead_letters_in_the_name_of_anothers_trader_name_none_of_its_snapshots(
        self, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        """Here one that cannot be decoded; why it is one has nothing to do with whose the trader is."""
        desks.save(batch("desk1", payload("x", 1)))
        broken = payload("x", 2).replace(b'"reason":""', b'"reason":"' + b"x" * 2_000 + b'"')
        for namespace in ("desk2", "desk1"):
            assert len(desks.save(batch(namespace, broken)).dead) == 1
        found = rows(db, "SELECT stream, trader_id, epoch, seq FROM risk_dead_letter ORDER BY stream")
        assert found == [
            (Keys(0, "desk1").snapshots, "x", 1, 2),
            (Keys(0, "desk2").snapshots, None, None, None),
        ]

    def test_replays_beside_it_are_stored_once(self, desks: PostgresStore, db: psycopg.Connection) -> None:
        """The careful way, in which halves are tried alone, finds it too."""
        own = [payload("y", seq) for seq in range(1, 9)]
        desks.save_all([batch("desk2", *own[:3]), batch("desk1", payload("x", 1))])
        again = batch("desk2", *own, payload("x", 2), first=10)
        [outcome] = desks.save_all([again])
        assert (dead([outcome]), outcome.duplicates) == ([[BELONGS]], 3)
        assert [row[:3] for row in stored(db)] == [("x", 1, 1), *(("y", 1, seq) for seq in range(1, 9))]

    def test_two_workers_at_once(self, database_url: str, db: psycopg.Connection) -> None:
        """Each stores the first snapshots of the same traders, by another namespace; the database decides."""
        rounds, traders = 15, 5
        start = Barrier(2)

        def store(namespace: str) -> list[list[str]]:
            refused = []
            with PostgresStore(database_url, assigns_traders=True) as own:
                for number in range(rounds):
                    made = [payload(f"t{number}-{each}", 1, reason=namespace) for each in range(traders)]
                    start.wait(60)
                    outcome = own.save(batch(namespace, *made, first=1 + traders * number))
                    refused.append([each.reason for each in outcome.dead])
            return refused

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(store, ("desk1", "desk2")))
        assert sum(len(each) for refused in answers for each in refused) == rounds * traders
        found = rows(db, "SELECT trader_id, reason, namespace FROM risk_state ORDER BY 1")
        assert len(found) == rounds * traders
        assert all(reason == namespace for _, reason, namespace in found)
        assert rows(db, "SELECT trader_id, reason FROM risk_state_history ORDER BY 1") == [
            (trader, reason) for trader, reason, _ in found
        ]
        assert rows(db, "SELECT count(*) FROM risk_dead_letter WHERE trader_id IS NULL") == [
            (rounds * traders,)
        ]


class TestOneNamespaceAlone:
    def test_no_trader_belongs_to_it(self, store: PostgresStore, db: psycopg.Connection) -> None:
        """As before: the namespace of a deployment may be changed, and no worker knows of others."""
        for number, namespace in enumerate(("", "desk1", "desk2"), 1):
            assert dead(store.save_all([batch(namespace, payload("x", number))])) == [[]]
        assert states(db) == [("x", 1, 3, "", None)]

    def test_but_it_refuses_what_belongs_to_another(
        self, store: PostgresStore, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        desks.save(batch("desk1", payload("x", 1)))
        assert dead(store.save_all([batch("desk2", payload("x", 2))])) == [[BELONGS]]
        assert dead(store.save_all([batch("", payload("x", 3))])) == [
            ["the trader 'x' belongs to namespace desk1, and this came by no namespace"]
        ]
        assert dead(store.save_all([batch("desk1", payload("x", 4))])) == [[]]
        assert states(db) == [("x", 1, 4, "", "desk1")]

    def test_its_traders_belong_to_the_first_that_reports_them_later(
        self, store: PostgresStore, desks: PostgresStore, db: psycopg.Connection
    ) -> None:
        store.save(batch("desk1", payload("x", 1)))
        assert dead(desks.save_all([batch("desk1", payload("x", 2))])) == [[]]
        assert dead(desks.save_all([batch("desk2", payload("x", 3))])) == [[BELONGS]]
        assert states(db) == [("x", 1, 2, "", "desk1")]


@pytest.mark.parametrize("stored_before", [False, True], ids=["one of its own", "a copy of what is stored"])
@pytest.mark.parametrize(("every", "more"), [(20, 2), (1, 5)], ids=["one", "one in each batch"])
def test_foreign_entries_in_a_backlog_cost_few_copies(
    database_url: str,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    stored_before: bool,
    every: int,
    more: int,
) -> None:
    """The batch of the first and the one after it are copied once more, over each connection."""
    count, copied, refused = 20, 0, []
    copy = module._copy

    def counted(*arguments: Any) -> None:
        nonlocal copied
        copied += 1
        copy(*arguments)

    def committed(batches: Sequence[Batch], outcomes: Sequence[Outcome], _at: datetime) -> None:
        refused.append(dead(outcomes))

    def failed(_batches: Sequence[Batch], error: StoreUnavailable) -> None:
        pytest.fail(str(error))

    with PostgresStores(database_url, assigns_traders=True) as stores:
        stores.save_all([batch("desk1", payload("x", 1))])
        monkeypatch.setattr(module, "_copy", counted)
        with Overlap(stores, stores.save_all, failed, committed, Uncommitted()) as overlap:
            for number in range(count):
                own, foreign = payload("y", 1 + number), payload("x", 1 if stored_before else 2 + number)
                entries = (own, foreign) if number % every == every // 2 else (own,)
                overlap.store([batch("desk2", *entries, first=1 + 2 * number)], more=number < count - 1)
    assert refused == [[[BELONGS] if number % every == every // 2 else []] for number in range(count)]
    assert copied <= count + more
    assert [row[:3] for row in stored(db)] == [("x", 1, 1), *(("y", 1, 1 + seq) for seq in range(count))]
