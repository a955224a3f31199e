"""What becomes of the process that reconciles: a result, a reason, or its end."""

from __future__ import annotations

import sys
import threading

import pytest

from risk_worker.monitor.page import Page
from risk_worker.monitor.reconciliation import Reconciliation, Result, Sums
from tests.support.wait import wait_until

SUMS = (
    '{"reconciled": false, "consistent": false, '
    '"lost": 3, "duplicates": 2, "dead": 1, "state_behind": 4, "gaps": []}'
)


def made(code: str, every_s: float = 60.0) -> Reconciliation:
    return Reconciliation(every_s, [sys.executable, "-c", code])


def shown(reconciliation: Reconciliation) -> dict[str, float]:
    page = Page()
    reconciliation.add_to(page)
    lines = (line.split(" ") for line in page.text().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_a_result_is_shown_whatever_the_exit_status_says() -> None:
    reconciliation = made(f"print({SUMS!r}); raise SystemExit(1)")
    assert shown(reconciliation) == {}
    assert reconciliation.try_once().sums is not None
    got = shown(reconciliation)
    assert (got["risk_snapshots_lost"], got["risk_snapshots_stored_twice"]) == (3, 2)
    assert (got["risk_dead_letters"], got["risk_states_behind"]) == (1, 4)
    assert (got["risk_verify_success"], got["risk_verify_reconciled"]) == (1, 0)
    assert got["risk_verify_timestamp_seconds"] > 1.7e9


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; sys.exit('Error: the database does not answer')",
            "Error: the database does not answer",
        ),
        ("raise SystemExit(2)", "verify ended with exit status 2"),
        ("print('{}')", "verify ended with exit status 0"),
        ("import os; os.kill(os.getpid(), 9)", "verify ended with exit status -9"),
    ],
)
def test_why_there_is_no_result_is_logged_once(
    code: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    reconciliation = made(code)
    for _ in range(2):
        assert reconciliation.try_once().reason == reason
    assert caplog.messages == [f"The exporter could not reconcile, and tries again: {reason}"]
    assert shown(reconciliation)["risk_verify_success"] == 0
    assert "risk_snapshots_lost" not in shown(reconciliation), "no number is better than none"


def test_what_it_finds_wrong_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    reconciliation = made("")
    for sums in (
        SUMS,
        SUMS,
        SUMS.replace("3", "4"),
        SUMS.replace('consistent": false', 'consistent": true'),
        SUMS,
    ):
        reconciliation._command = [sys.executable, "-c", f"print({sums!r})"]
        reconciliation.try_once()
    wrong = "The reconciliation found something wrong ({} snapshots lost, 2 stored twice"
    assert [each.partition(", 4")[0] for each in caplog.messages] == [
        wrong.format(3),
        wrong.format(4),
        "The reconciliation finds nothing wrong any more",
        wrong.format(3),
    ]


def test_what_hangs_is_ended() -> None:
    reconciliation = made("import time; time.sleep(600)", every_s=0.1)
    assert "it took longer than 0.1 s" in reconciliation.try_once().reason


def test_what_waits_for_a_server_that_is_away_is_ended_and_tried_again_soon() -> None:
    sentences = iter(["", "", "Postgres does not answer: refused"])
    code = "import time; print('{}', flush=True); time.sleep(600)"
    reconciliation = made(code, every_s=900)
    reconciliation._away = lambda: next(sentences)
    result = reconciliation.try_once()
    assert result.reason == "it was ended, as Postgres does not answer: refused"
    assert reconciliation.pause_s(result) == 60.0


def test_it_rests_for_longer_than_it_takes() -> None:
    reconciliation = made("", every_s=900)
    sums = Sums(consistent=True, lost=0, duplicates=0, dead=0, state_behind=0)
    for seconds, result, pause_s in (
        (1.0, sums, 900.0),
        (400.0, sums, 1_600.0),
        (1.0, None, 60.0),
        (59.0, None, 60.0),
        (61.0, None, 244.0),
        (900.0, None, 3_600.0),
    ):
        assert reconciliation.pause_s(Result(seconds, result)) == pause_s


def test_stop_ends_it_and_what_is_under_way() -> None:
    reconciliation = made("import time; time.sleep(600)")
    reconciliation.start()
    wait_until(lambda: reconciliation._process is not None)
    reconciliation.stop()
    reconciliation.join(20)
    assert not reconciliation.is_alive()
    assert reconciliation not in threading.enumerate()
