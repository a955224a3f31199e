"""One line for all dead letters of a transaction, with the first reason and its trace_id."""

from __future__ import annotations

import logging

import pytest

from risk_producer.contract.wire import Identity
from risk_worker.drain.batch import Batch, DeadLetter, Outcome
from risk_worker.drain.dead_log import log_dead_letters


def test_nothing_where_all_was_stored(caplog: pytest.LogCaptureFixture) -> None:
    log_dead_letters([Batch("s")], [Outcome([], 0)])
    assert caplog.records == []


def test_one_line_with_the_first_reason(caplog: pytest.LogCaptureFixture) -> None:
    payload = b'{"v":1,"trader_id":"a","trace_id":"order-7","seq":3}'
    first = DeadLetter("5-0", "seq expects more", payload, identity=Identity("a", 1, 3, 0))
    more = [DeadLetter(f"{number}-0", "no", b"\xff") for number in range(3)]
    batches = [Batch("s0", dead=[]), Batch("s1", dead=[first, *more])]
    log_dead_letters(batches, [Outcome([], 0), Outcome([first, *more], 0)])
    [found] = caplog.records
    assert found.levelno == logging.ERROR
    assert found.getMessage() == (
        "4 of 4 entries could not be stored and are dead letters. The first is 5-0 in s1 of trader 'a', "
        "trace_id 'order-7': seq expects more. `riskstream dead list` shows them"
    )
    assert found.trace_id == "order-7"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xfe", b"[" * 9_000, b'{"trace_id":7}', b"null", b'{"trace_id":"' + b"x" * 99_999]
)
def test_whatever_a_payload_is(caplog: pytest.LogCaptureFixture, payload: bytes) -> None:
    dead = DeadLetter("1-0", "x" * 5_000, payload)
    log_dead_letters([Batch("s", dead=[dead])], [Outcome([dead], 0)])
    [found] = caplog.records
    assert len(found.getMessage()) < 600
    assert not hasattr(found, "trace_id")
