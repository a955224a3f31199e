"""Drain jobs: when a drain ends."""

from __future__ import annotations

from typing import Any

import pytest

from risk_producer.settings import Settings
from risk_worker.drain.errors import StoreUnavailable
from risk_worker.drain.retry import OutageLog, RetryPolicy
from risk_worker.drain.uncommitted import Uncommitted
from risk_worker.runtime import jobs


class Stream:
    def __init__(self, *, empty: bool) -> None:
        self._empty = empty

    def is_empty(self) -> bool:
        return self._empty


def test_a_drain_without_rq_does_not_end_before_it_knows_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    overs: list[Any] = []

    def drain(_settings: Settings, _partitions: Any, over: Any) -> int:
        overs.append(over)
        return 0

    outage, uncommitted = OutageLog(), Uncommitted(clock=iter(range(100)).__next__)
    monkeypatch.setattr(jobs, "_drain", drain)
    monkeypatch.setattr(jobs, "outage", outage)
    monkeypatch.setattr(jobs, "uncommitted", uncommitted)
    jobs.drain_directly(Settings(), [0], 0.0)
    [over] = overs
    assert over(Stream(empty=False))
    uncommitted.begin()
    assert not over(Stream(empty=False))
    assert over(Stream(empty=True))
    outage.record_failure(StoreUnavailable("gone"), "the stream", RetryPolicy())
    assert over(Stream(empty=False))
