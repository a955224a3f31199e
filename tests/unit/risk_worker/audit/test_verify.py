"""verify says what it waits for, and does not wait where that does not help."""

from __future__ import annotations

from itertools import count

import pytest
import redis

from risk_producer.transport.connect import CertificateRefused, ServerTooOld
from risk_worker.audit import verify

NO_SERVER = "redis://127.0.0.1:1/0"


def test_verify_says_what_it_waits_for_and_gives_up(capsys: pytest.CaptureFixture[str]) -> None:
    clock = count()  # each look at it is a second later
    said: list[str] = []

    def pause(_: float) -> None:
        said.append(capsys.readouterr().err)

    with pytest.raises(redis.ConnectionError):
        verify._wait_for_redis(NO_SERVER, lambda: float(next(clock)), pause)
    assert next(clock) == verify.REDIS_WAIT_S + 1
    assert [bool(text) for text in said[:3]] == [False, True, False]
    assert said[1].startswith("Waiting for Redis, for 6 s more at most: ")
    assert "refused" in said[1]
    assert "".join(said).count("\n") == 1


@pytest.mark.parametrize("final", [redis.AuthenticationError, ServerTooOld, CertificateRefused])
def test_verify_does_not_wait_where_waiting_does_not_help(
    final: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise final("no")

    monkeypatch.setattr(redis.ConnectionPool, "get_connection", refuse)
    with pytest.raises(final):
        verify._wait_for_redis(NO_SERVER, pause=lambda _: pytest.fail("waits"))
