"""Databases in other encodings than UTF-8: every connection speaks UTF-8, the rest is the server's."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from risk_producer.load import postgres as postgres_state
from risk_worker.audit import ledger as audit_ledger
from risk_worker.audit.reconcile import reconcile
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from tests.integration.faults.test_database_errors import batch
from tests.support.servers import Databases, name_in, with_name


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def foreign_url(
    request: pytest.FixtureRequest, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")  # what a user's shell may say
    url = databases.create()
    name = f"{name_in(url)}_{request.param.lower()}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0").format(
                sql.Identifier(name), sql.Literal(request.param)
            )
        )
        foreign = with_name(url, name)
        migrations.up(foreign)
        yield foreign
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    databases.drop(url)


def test_load_and_verify_read_what_the_worker_stored(foreign_url: str) -> None:
    with PostgresStore(foreign_url) as store:
        assert store.save(batch("größer", reason="é")).dead == []
    found = postgres_state.fetch(foreign_url, "größer").state
    assert found is not None
    assert (found.trader_id, found.reason) == ("größer", "é")
    assert reconcile({}, {}, audit_ledger.read(foreign_url)).problems == []
    assert [*audit_ledger.read(foreign_url, "größer").epochs] == [("größer", 1)]


def test_a_name_that_the_database_cannot_hold_is_not_there(foreign_url: str) -> None:
    assert postgres_state.fetch(foreign_url, "東京").state is None


def test_dead_letters_of_a_name_that_the_database_cannot_hold_are_its_own(foreign_url: str) -> None:
    with PostgresStore(foreign_url) as store:
        rejected = len(store.save(batch("東京", "größer", reason="")).dead)
    ledger = audit_ledger.read(foreign_url, admitted=lambda keys, _owners: [len(keys)] * len(keys))
    assert [*ledger.epochs] == [("größer", 1), ("東京", 1)]
    totals = ledger.epochs["東京", 1]
    assert (totals.stored + totals.dead + totals.conflated, ledger.foreign) == (1, 0)
    assert reconcile({}, {}, ledger).problems == []
    assert totals.dead == rejected
    assert [*audit_ledger.read(foreign_url, "東京").epochs] == [("東京", 1)]
    assert audit_ledger.found_since(foreign_url, {("東京", 1): [(1, 1)]}, "東京")
