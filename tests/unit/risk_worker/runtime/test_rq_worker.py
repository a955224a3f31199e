"""The worker around RQ's own loop."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
from rq import SimpleWorker
from rq.exceptions import StopRequested

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
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


def test_misspelt_variables_are_logged_where_the_worker_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under `rq worker`; `riskstream worker` has read and named them already."""
    monkeypatch.setattr("os.environ", {"RISK_PARTITION": "4"})
    with pytest.raises(ConfigurationError, match="POSTGRES_URL is not set"):
        DrainWorker(connection=fakeredis.FakeRedis()).bootstrap()
    assert caplog.messages == ["RISK_PARTITION is no setting; do you mean RISK_PARTITIONS?"]
    caplog.clear()
    with pytest.raises(ConfigurationError, match="POSTGRES_URL is not set"):
        DrainWorker(connection=fakeredis.FakeRedis(), settings=Settings()).bootstrap()
    assert caplog.messages == []
