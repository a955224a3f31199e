"""The reconciliation notices whatever is lost, duplicated or untotalsed for."""

from __future__ import annotations

import json
from typing import Any

from risk_worker.audit.ledger import EpochTotals, Ledger
from risk_worker.audit.reconcile import Report, reconcile
from risk_worker.audit.render import as_json, as_text

EPOCH = ("t1", 7)


def ledger(totals: EpochTotals | None = None, **more: Any) -> Ledger:
    return Ledger({EPOCH: totals} if totals else {}, **more)


def totals(report: Report) -> tuple[int, ...]:
    return tuple(count for name, count in report.totals.items() if name not in ("foreign", "not_retained"))


def test_in_flight_makes_up_the_difference() -> None:
    report = reconcile(
        {EPOCH: 10}, {EPOCH: [(7, 8), (9, 9), (10, 10)]}, ledger(EpochTotals(5, 1, 0, 0, 0, (), 6))
    )
    assert totals(report) == (10, 5, 1, 1, 3, 0, 0, 0)
    assert report.problems == []


def test_what_was_read_as_waiting_and_is_stored_by_now_counts_once() -> None:
    report = reconcile({EPOCH: 3}, {EPOCH: [(2, 2), (3, 3)]}, ledger(EpochTotals(3, 0, 0, 0, 0, (), 3)))
    assert totals(report) == (3, 3, 0, 0, 0, 0, 0, 0)


def test_what_was_accepted_and_stored_while_looking_is_no_surplus() -> None:
    report = reconcile({EPOCH: 3}, {}, ledger(EpochTotals(5, 0, 0, 0, 0, (), 5)))
    assert totals(report) == (5, 5, 0, 0, 0, 0, 0, 0)


def test_gaps_are_named() -> None:
    totals = EpochTotals(5, 0, 0, 4, 0, [(2, 3), (7, 8)], 9)
    report = reconcile({EPOCH: 12}, {EPOCH: [(3, 3), (11, 11)]}, ledger(totals))
    assert report.problems == [
        "t1, epoch 7: lost seq 2",
        "t1, epoch 7: lost seq 7 to 8 (2)",
        "t1, epoch 7: lost seq 10",
        "t1, epoch 7: lost seq 12",
    ]
    said = json.loads("".join(as_json(report)))
    assert (said["lost"], said["in_flight"], said["reconciled"]) == (5, 2, False)
    assert said["gaps"][1] == {"trader_id": "t1", "epoch": 7, "from": 7, "to": 8}


def test_an_epoch_that_nothing_is_left_of_is_lost() -> None:
    assert reconcile({EPOCH: 2}, {}, ledger()).problems == ["t1, epoch 7: lost seq 1 to 2 (2)"]


def test_duplicates_are_named() -> None:
    report = reconcile({EPOCH: 3}, {}, ledger(EpochTotals(5, 0, 0, 0, 2, (), 3)))
    assert report.problems == ["t1, epoch 7: 2 stored more than once"]
    assert report.totals["duplicates"] == 2


def test_a_ledger_that_contradicts_itself_are_noticed() -> None:
    report = reconcile({EPOCH: 3}, {}, ledger(EpochTotals(2, 0, 0, 0, 0, (), 3)))
    assert report.problems == ["t1, epoch 7: 3 accepted, but 2 accounted for"]


def test_foreign_entries_are_accounted_for_too() -> None:
    report = reconcile(
        {EPOCH: 1}, {}, Ledger({EPOCH: EpochTotals(1, 0, 0, 0, 0, (), 1)}, unidentified=2), foreign=3
    )
    assert totals(report) == (1, 1, 2, 0, 3, 0, 0, 0)
    assert report.totals["foreign"] == 5
    assert report.problems == []


def test_many_problems_are_cut_short_for_a_person_alone() -> None:
    gaps = [(n, n) for n in range(1, 400, 2)]
    report = reconcile({EPOCH: 400}, {}, ledger(EpochTotals(200, 0, 0, 200, 0, gaps, 400)))
    assert "and 150 more" in as_text(report, each_epoch=False)
    assert len(json.loads("".join(as_json(report)))["gaps"]) == 200
