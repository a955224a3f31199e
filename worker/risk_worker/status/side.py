"""Asks one server in a thread of its own, and waits for it within a bound."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Asked(Generic[T]):
    """One server, and how it is asked."""

    def ask(self) -> T:
        """The answer, errors of the server included. Called by one thread at a time."""
        raise NotImplementedError

    def without_answer(self, why: str) -> T:
        """The answer of one that says nothing."""
        raise NotImplementedError

    def cut(self) -> None:
        """From another thread: end what is waited for, as far as that can be done."""

    def close(self) -> None:
        """Give the connections back."""


class Side(Generic[T]):
    """Asks in a thread, which may hang: then it is not asked again before that has ended."""

    def __init__(self, asked: Asked[T]) -> None:
        self._asked = asked
        self._thread: threading.Thread | None = None
        self._answers: list[T] = []
        self._began = 0.0
        self._over = False

    def begin(self) -> None:
        """Ask, unless the last question is still waited for."""
        if self._thread is None or not self._thread.is_alive():
            self._answers, self._began = [], monotonic()
            self._thread = threading.Thread(target=self._run, args=(self._answers,), daemon=True)
            self._thread.start()

    def answer(self, until: float) -> T:
        """The answer, or that of a server that says nothing. until: a moment, monotonic."""
        assert self._thread is not None
        self._thread.join(max(0.0, until - monotonic()))
        if self._answers:
            return self._answers[0]
        self._asked.cut()
        return self._asked.without_answer(f"it did not answer within {monotonic() - self._began:.1f} s")

    def close(self) -> None:
        """Give the connections back: now, or when what is waited for has come to its end."""
        self._over = True
        if self._thread is None or not self._thread.is_alive():
            self._asked.close()

    def _run(self, answers: list[T]) -> None:
        try:
            answers.append(self._asked.ask())
        except Exception as error:  # noqa: BLE001  # what is wrong on one side is no reason to show no other
            answers.append(self._asked.without_answer(f"{type(error).__name__}: {error}"))
        if self._over:
            self._asked.close()
