"""The lock of a session, called again by the thread that holds it."""

from __future__ import annotations

import logging
import threading

import pytest

from risk_producer.session.section import DEFERRED_MAX, CriticalSection


def test_an_operation_runs_with_the_lock_held() -> None:
    section, held = CriticalSection(), []
    section.run(lambda: held.append(section.is_held()))
    assert held == [True]
    assert not section.is_held()


def test_an_operation_of_the_holder_runs_after_the_outer_one_and_before_the_lock_is_free() -> None:
    section, order = CriticalSection(), list[str]()

    def inner(name: str) -> None:
        assert section.is_held()
        order.append(name)
        if name == "first":
            section.run(lambda: inner("third"))

    def outer() -> None:
        section.run(lambda: inner("first"))
        section.run(lambda: inner("second"))
        order.append("outer")

    section.run(outer)
    assert order == ["outer", "first", "second", "third"]


def test_an_effect_runs_when_the_lock_is_free_and_may_fail() -> None:
    section, held = CriticalSection(), list[bool]()

    def fail() -> None:
        held.append(section.is_held())
        raise ValueError("a log handler's own fault")

    def outer() -> None:
        section.after(fail)
        section.after(lambda: held.append(section.is_held()))
        assert not held

    section.run(outer)
    assert held == [False, False]
    section.after(fail)
    assert held == [False] * 3, "at once, where the lock is free"


def test_what_a_holder_defers_without_an_operation_is_done_when_it_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    section, done = CriticalSection(), list[bool]()
    with section.lock:
        section.run(lambda: done.append(section.is_held()))
        section.log(logging.WARNING, "%d lines", 1)
        section.leave()
        assert not done and not caplog.records, "the lock is still held"
    section.leave()
    assert done == [True]
    assert caplog.messages == ["1 lines"]


def test_the_deferred_operations_are_bounded() -> None:
    section = CriticalSection()
    with section.lock:
        for _ in range(DEFERRED_MAX + 10):
            section.run(lambda: None)
        assert len(section.deferred) == DEFERRED_MAX
    section.leave()
    assert not section.deferred


def test_the_lock_is_made_once_by_whichever_thread_is_first() -> None:
    section, locks = CriticalSection(), list[object]()
    threads = [threading.Thread(target=lambda: locks.append(section.lock)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(locks) == 8
    assert len(set(map(id, locks))) == 1
