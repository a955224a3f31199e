"""Rows of a batch by incarnation."""

from __future__ import annotations

import pytest

from risk_worker.drain.batch import Batch, DeadLetter, Row, incarnations
from tests.support import factory


def row(entry_id: str, trader: str, epoch: int, seq: int) -> Row:
    return factory.row(entry_id, factory.payload(trader, seq, epoch=epoch))


@pytest.mark.parametrize("seqs", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (3, 3, 3), (3,)])
def test_the_newest_has_the_highest_seq_in_whatever_order_they_come(seqs: tuple[int, ...]) -> None:
    rows = [row(f"{at}-0", "a", 5, seq) for at, seq in enumerate(seqs)]
    [found] = incarnations(rows)
    assert (found.trader_id, found.epoch, found.rows, found.newest.seq) == ("a", 5, len(seqs), 3)


def test_traders_and_epochs_are_told_apart() -> None:
    rows = [row("1-0", "a", 6, 9), row("2-0", "b", 5, 1), row("3-0", "a", 5, 2), row("4-0", "a", 6, 1)]
    found = [(each.trader_id, each.epoch, each.rows, each.newest.seq) for each in incarnations(rows)]
    assert found == [("a", 6, 2, 9), ("b", 5, 1, 1), ("a", 5, 1, 2)]
    assert incarnations([]) == []


def test_rejected_rows_are_dead_letters_and_of_no_incarnation() -> None:
    batch = Batch("s", [row("1-0", "a", 6, 1), row("2-0", "b", 5, 1)])
    assert len(batch.incarnations) == 2
    batch.reject([DeadLetter("1-0", "why", b"x")])
    assert [each.trader_id for each in batch.incarnations] == ["b"]
    assert ([each.entry_id for each in batch.rows], len(batch.dead), len(batch)) == (["2-0"], 1, 2)
