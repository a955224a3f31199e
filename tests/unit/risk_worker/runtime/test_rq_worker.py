"""The worker around RQ's own loop."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
from rq import SimpleWorker
from rq.exceptions import StopRequested

from risk_worker.runtime.worker import DrainWorker


def test_a_signal_while_the_worker_registers_anew_ends_it_in_good_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = iter([False, StopRequested()])

    def work(*_args: object, **_options: object) -> Any:
        """RQ's loop gave up; then the signal comes before it is under way again."""
        outcome = next(rounds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(SimpleWorker, "work", work)
    assert not DrainWorker(connection=fakeredis.FakeRedis()).work()
    assert next(rounds, None) is None
