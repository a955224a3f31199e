"""Whether Postgres answers: it is stopped, frozen and started again, and nothing waits for it."""

from __future__ import annotations

import pytest

from risk_worker.monitor.postgres import BOUND_S, PostgresWatch
from tests.conftest import MakePostgres
from tests.support.clock import FakeClock
from tests.support.wait import wait_until


def test_up_follows_the_server(make_postgres: MakePostgres, caplog: pytest.LogCaptureFixture) -> None:
    server = make_postgres()
    clock = FakeClock()
    watch = PostgresWatch(server.url, clock=clock)
    seen: list[bool | None] = [watch.up]

    def look() -> None:
        watch.look()
        seen.append(watch.up)

    look()
    server.pause()
    watch.start()
    wait_until(lambda: watch._began is not None)
    seen.append(watch.up)
    clock.now += BOUND_S + 1
    seen.append(watch.up)
    problems = [watch.problem]
    server.resume()
    wait_until(lambda: watch.up)
    watch.stop()
    watch.join(20)
    server.stop()
    look()
    problems.append(watch.problem)
    server.start()
    look()
    problems.append(watch.problem)
    assert seen == [None, True, True, False, False, True], "a try is given BOUND_S"
    frozen, stopped, nothing = problems
    assert frozen == "Postgres does not answer: a try has taken longer than 5 s."
    assert stopped.startswith("Postgres does not answer: the database: ")
    assert nothing == ""
    gone, back = (message for message in caplog.messages if "answer" in message)
    assert gone.startswith("The exporter gets no answer from Postgres: ")
    assert back == "The exporter gets answers from Postgres again"
