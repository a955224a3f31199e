"""RQ's lines of each job are for DEBUG, and an error that may come at any time has no traceback."""

from __future__ import annotations

import logging

import pytest
import redis
from rq.exceptions import InvalidJobOperation

from risk_worker.runtime import rq_log

LOG = logging.getLogger("rq.worker")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOG, "filters", [])
    rq_log.quieten()
    rq_log.quieten()
    assert len(LOG.filters) == 1


def test_what_is_routine_is_for_debug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "rq.worker"):
        LOG.info("Job OK (%s)", "drain-0")
        LOG.info("Worker %s [PID %d]: warm shut down requested", "w", 7)
        LOG.warning("something")
    assert caplog.messages == ["Worker w [PID 7]: warm shut down requested", "something"]
    monkeypatch.setattr(LOG, "level", logging.INFO)  # as RQ sets it, whatever RISK_LOG_LEVEL is
    with caplog.at_level(logging.DEBUG):
        LOG.info("Job OK (%s)", "drain-0")
    assert caplog.records[-1].levelname == "DEBUG"
    assert caplog.messages[-1] == "Job OK (drain-0)"


@pytest.mark.parametrize(
    "error",
    [
        redis.AuthenticationError("NOAUTH Authentication required."),
        redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ConnectionError("refused"),
        InvalidJobOperation("Failed to retrieve status for job"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_come_at_any_time_is_a_sentence(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    try:
        raise error
    except Exception:
        LOG.exception("Worker %s: found an unhandled exception, quitting...", "w")
    [found] = caplog.records
    assert found.exc_info is None
    assert found.getMessage().endswith(f"quitting... {type(error).__name__}: {error}")


def test_what_is_a_fault_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        LOG.exception("found an unhandled exception")
    assert caplog.records[0].exc_info is not None


def test_what_is_repeated_is_for_debug_within_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    quiet = rq_log._Quiet(lambda: now[0])
    with caplog.at_level(logging.INFO):
        for at, name, seconds in ((0, "a", 1), (1, "b", 2), (59, "c", 4), (61, "c", 8), (62, "c", 16)):
            now[0] = at
            record = logging.LogRecord(
                "rq.worker",
                logging.ERROR,
                "f",
                1,
                "Worker %s: could not connect: %s retrying in %d seconds",
                (name, "refused", seconds),
                None,
            )
            assert quiet.filter(record) == (at in (0, 61)), at
