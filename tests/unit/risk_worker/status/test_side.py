"""A server that says nothing holds up nothing."""

from __future__ import annotations

import threading
from time import monotonic

from risk_worker.status.side import Asked, Side


class Silent(Asked[str]):
    """Answers once it is let go, or cut."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = 0
        self.closed = False

    def ask(self) -> str:
        self.asked += 1
        assert self.go_on.wait(30)
        return "answer"

    def without_answer(self, why: str) -> str:
        return why

    def cut(self) -> None:
        self.go_on.set()

    def close(self) -> None:
        self.closed = True


class Stubborn(Silent):
    def cut(self) -> None:
        """It hangs all the same."""


class Broken(Silent):
    def ask(self) -> str:
        raise LookupError("no such thing")


def test_the_answer() -> None:
    asked = Silent()
    asked.go_on.set()
    side = Side(asked)
    side.begin()
    assert side.answer(monotonic() + 30) == "answer"
    side.close()
    assert asked.closed


def test_one_that_hangs_is_cut() -> None:
    asked = Silent()
    side = Side(asked)
    side.begin()
    assert side.answer(monotonic()).startswith("it did not answer within")
    assert asked.go_on.is_set()


def test_one_that_hangs_all_the_same_is_not_asked_again() -> None:
    asked = Stubborn()
    side = Side(asked)
    for _ in range(3):
        side.begin()
        assert side.answer(monotonic()).startswith("it did not answer within")
    assert asked.asked == 1
    side.close()
    assert not asked.closed, "its connection is in use"
    asked.go_on.set()
    assert side.answer(monotonic() + 30) == "answer"


def test_an_error_that_was_not_expected_is_an_answer() -> None:
    side = Side(Broken())
    side.begin()
    assert side.answer(monotonic() + 30) == "LookupError: no such thing"
