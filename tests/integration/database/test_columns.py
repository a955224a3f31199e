"""The columns of a history row are the same wherever they are written out."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

from risk_producer.contract.statements import statements
from risk_producer.contract.wire import WireSnapshot
from risk_worker.database import store
from risk_worker.database.columns import COLUMNS
from tests.support.factory import wire

SQL = statements("risk_worker.database", "store.sql")
FILLED_IN = {"stored_at"}
"""By the database."""


def test_they_are_those_of_the_table(database_url: str) -> None:
    with psycopg.connect(database_url) as db:
        found = db.execute(
            "SELECT column_name::text, udt_name::text FROM information_schema.columns "
            "WHERE table_name = 'risk_state_history' AND table_schema = current_schema()"
        ).fetchall()
    assert {name: kind for name, kind in found if name not in FILLED_IN} == COLUMNS
    assert {name for name, _ in found} >= FILLED_IN


def test_they_are_the_fields_of_the_wire_format() -> None:
    assert set(WireSnapshot.__struct_fields__) - {"v"} == set(COLUMNS)


def test_the_store_writes_them_in_their_order() -> None:
    class Copy:
        types: list[str]
        row: tuple[object, ...]

        def set_types(self, types: list[str]) -> None:
            self.types = types

        def write_row(self, row: tuple[object, ...]) -> None:
            self.row = row

    class Cursor:
        def copy(self, _statement: str) -> Any:
            return nullcontext(written)

    written, cursor = Copy(), Cursor()
    snapshot = wire("t", 7, epoch=5, merged=6, trading_paused=True, trace_id="x", reason="y")
    store._copy(cursor, SQL["copy_history"], [store._values(snapshot)])  # type: ignore[arg-type]
    assert written.row == tuple(getattr(snapshot, name) for name in COLUMNS)
    assert written.types == list(COLUMNS.values())


@pytest.mark.parametrize("name", ["copy_history", "copy_staging", "copy_newest", "save_history"])
def test_the_statements_name_them_in_their_order(name: str) -> None:
    lists = re.findall(r"trader_id, epoch, seq, recorded_at, daily_pnl[\w,\s]*?merged", SQL[name])
    assert [re.findall(r"\w+", each) for each in lists] == [list(COLUMNS)] * (
        2 if name == "save_history" else 1
    )


def test_the_staging_table_has_their_types() -> None:
    for name in ("create_staging_of_session", "create_staging_of_transaction"):
        inside = SQL[name].partition("(")[2].rpartition(")")[0]
        pairs = [each.split()[:2] for each in inside.split(",")]
        assert dict(pairs) == COLUMNS | {"namespace": "text"}  # of the newest of each trader
