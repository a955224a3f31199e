"""Partitions that Redis answers with an error for."""

from __future__ import annotations

import logging
import math

import pytest

from risk_worker.stream.outages import LONGEST_WAIT_S, PartitionOutages
from tests.support.clock import FakeClock

ERROR = Exception("WRONGTYPE")


def test_one_line_when_the_first_fails_and_one_when_all_answer_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    outages = PartitionOutages(clock)
    with caplog.at_level(logging.WARNING):
        for partition in (3, 0, 3):
            outages.record_failure([partition], ERROR, alone=False)
        clock.now += 7
        outages.record_success(3)
        outages.record_success(1)
        assert len(caplog.messages) == 1
        outages.record_success(0)
    first, last = caplog.messages
    assert first.startswith("The worker cannot store partition 3, as Redis does not serve it: WRONGTYPE.")
    assert "it goes on with the other partitions" in first
    assert last == "The worker stores all partitions again: partitions 0, 3 answered after 7.0 s."
    assert not outages


def test_each_has_a_wait_of_its_own_which_grows(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    outages = PartitionOutages(clock)
    assert outages.next_due_s() == math.inf
    waits = []
    for _ in range(8):
        outages.record_failure([1], ERROR, alone=True)
        waits.append(round(outages.next_due_s(), 3))
        assert not outages.is_due(1)
        clock.now += outages.next_due_s()
        assert outages.is_due(1)
    assert waits == [
        0.1,
        0.2,
        0.4,
        LONGEST_WAIT_S,
        LONGEST_WAIT_S,
        LONGEST_WAIT_S,
        LONGEST_WAIT_S,
        LONGEST_WAIT_S,
    ]
    outages.record_failure([2], ERROR, alone=False)
    assert round(outages.next_due_s(), 3) == 0.0, "1 is due, whatever 2 waits for"
    outages.keep([2])
    assert (1 in outages, 2 in outages) == (False, True)
    assert round(outages.next_due_s(), 3) == 0.1
    assert len(caplog.messages) == 1
