"""The reconciliation notices whatever is lost, duplicated or untotalsed for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from risk_worker.audit.known_loss import KnownLoss
from risk_worker.audit.ledger import EpochTotals, Ledger
from risk_worker.audit.reconcile import Report, reconcile, without_earlier
from risk_worker.audit.render import as_json, as_text

EPOCH = ("t1", 7)


def ledger(totals: EpochTotals | None = None, **more: Any) -> Ledger:
    return Ledger({EPOCH: totals} if totals else {}, **more)


def totals(report: Report) -> tuple[int, ...]:
    apart = ("foreign", "dropped", "not_retained", "known_lost", "lost_earlier")
    return tuple(count for name, count in report.totals.items() if name not in apart)


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


def loss(number: int, first: int, last: int, epoch: int = 7) -> KnownLoss:
    return KnownLoss(number, "t1", epoch, first, last, "the disk was full", "ops@host", datetime.now(UTC))


def test_what_is_known_to_be_lost_is_counted_apart() -> None:
    totals = EpochTotals(5, 0, 0, 4, 0, [(2, 3), (7, 8)], 9)
    report = reconcile({EPOCH: 12}, {}, ledger(totals), known_losses=[loss(1, 2, 3), loss(2, 8, 8)])
    assert report.problems == ["t1, epoch 7: lost seq 7", "t1, epoch 7: lost seq 10 to 12 (3)"]
    assert (report.totals["lost"], report.totals["known_lost"]) == (4, 3)
    report = reconcile({EPOCH: 12}, {}, ledger(totals), known_losses=[loss(1, 2, 3), loss(2, 7, 12)])
    assert report.problems == [
        "t1, epoch 7: seq 9 is there after all, and was accepted as lost; riskstream verify undo 2"
    ]
    text = as_text(
        reconcile({EPOCH: 9}, {}, ledger(totals), known_losses=[loss(1, 2, 3), loss(2, 7, 8)]),
        each_epoch=False,
    )
    assert "known loss 2: t1, epoch 7, seq 7 to 8 (2), accepted by ops@host at 20" in text
    assert "✓ Reconciled: 4 are lost and no others, nothing is duplicated" in text


def test_a_known_loss_of_which_nothing_is_known_any_more_is_no_find() -> None:
    """Redis was emptied since, and nothing of the epoch was ever stored."""
    report = reconcile({}, {}, ledger(), known_losses=[loss(1, 2, 3, epoch=5)])
    assert (report.problems, report.totals["known_lost"]) == ([], 0)
    report = reconcile({EPOCH: 2}, {}, ledger(), known_losses=[loss(1, 1, 5)])
    assert (report.problems, report.totals["known_lost"]) == ([], 2)


def test_a_known_loss_that_has_expired_is_no_find() -> None:
    totals = EpochTotals(2, 0, 0, 3, 0, [(2, 4)], 5, expired=[(2, 4)])
    report = reconcile({EPOCH: 5}, {}, ledger(totals), known_losses=[loss(1, 2, 3)])
    assert (report.problems, report.totals["known_lost"]) == ([], 0)
    assert report.totals["not_retained"] == 3


def test_what_an_operator_has_dropped_is_no_loss() -> None:
    """As far as it is missing: what is stored after all, in flight, or was never accepted counts as that."""
    totals = EpochTotals(5, 0, 0, 4, 0, [(2, 3), (7, 8)], 9, expired=[(2, 3)])
    report = reconcile(
        {EPOCH: 12}, {EPOCH: [(11, 11)]}, ledger(totals, dropped={EPOCH: [(1, 2), (8, 20)]}), known_losses=[]
    )
    assert report.problems == ["t1, epoch 7: lost seq 7"]
    said = json.loads("".join(as_json(report)))
    assert (said["dropped"], said["lost"], said["in_flight"], said["not_retained"]) == (4, 1, 1, 1)
    report = reconcile({}, {}, ledger(dropped={EPOCH: [(1, 2)], ("t2", 1): [(1, 9)]}))
    assert (report.problems, report.totals["dropped"], report.epochs) == ([], 0, [])
    report = reconcile({EPOCH: 2}, {}, ledger(dropped={EPOCH: [(1, 2)]}))
    assert "✓ Reconciled: nothing is lost, 2 were dropped by operators" in as_text(report, each_epoch=False)


def test_losses_before_a_time_are_counted_apart() -> None:
    totals = EpochTotals(5, 0, 0, 4, 0, [(2, 3), (7, 8)], 9)
    made = {("t1", 7): totals, ("t1", 2_000): EpochTotals(0, 0, 0, 0, 0), ("t2", 7): totals}
    found = reconcile({EPOCH: 12, ("t1", 2_000): 1, ("t2", 7): 12}, {}, Ledger(made))
    since = datetime.fromtimestamp(1, UTC)
    report = without_earlier(found, since, {("t1", 7): 5, ("t2", 7): 5})
    assert [problem for problem in report.problems if problem.startswith("t1")] == [
        "t1, epoch 7: lost seq 7 to 8 (2)",
        "t1, epoch 7: lost seq 10 to 12 (3)",
        "t1, epoch 2000: lost seq 1",
    ]
    assert report.totals["lost_earlier"] == 4
    report = without_earlier(found, datetime.fromtimestamp(3, UTC), {("t2", 7): 9})
    assert report.problems == ["t1, epoch 2000: lost seq 1", "t2, epoch 7: lost seq 10 to 12 (3)"]
    assert report.totals["lost_earlier"] == 7 + 4
    text = as_text(report, each_epoch=False)
    assert "What was lost before 1970-01-01T00:00:03Z is no problem, as --since says." in text


def test_a_partition_that_is_not_drained_is_a_problem_and_no_difference() -> None:
    waits = Report((), (), findings=("partition 0",), not_drained=("partition 0",))
    assert (waits.reconciled, waits.consistent) == (False, True)
    wrong = Report((), (), findings=("a key", "partition 0"), not_drained=("partition 0",))
    assert (wrong.reconciled, wrong.consistent) == (False, False)
    assert Report((), ("t",)).consistent is False
    assert Report((), ()).consistent is True
