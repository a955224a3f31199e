"""One check that fails or hangs stops no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from risk_worker.doctor.check import (
    CONNECTION,
    Check,
    Finding,
    Link,
    examine,
    failure,
    ok,
    skipped,
    warning,
    worst,
)


def fails() -> Iterator[Finding]:
    yield ok("the first part")
    raise LookupError("no\nsuch thing")


def found(link: Link, **bounds: float) -> list[tuple[str, str, str]]:
    return [(each.check, each.level, each.what) for each in examine([link], **bounds)]


def test_findings_have_the_names_of_link_and_check() -> None:
    closed = threading.Event()
    link = Link("redis", [Check("a", lambda: [ok("x"), warning("y", "z")])], closed.set)
    assert examine([link]) == [
        Finding("ok", "x", "", "redis", "a"),
        Finding("warning", "y", "z", "redis", "a"),
    ]
    assert closed.wait(10)


def test_what_a_check_raises_is_a_failure() -> None:
    link = Link(
        "x", [Check("first", lambda: [ok("")]), Check("bad", fails), Check("next", lambda: [ok("too")])]
    )
    assert found(link) == [
        ("first", "ok", ""),
        ("bad", "ok", "the first part"),
        ("bad", "failure", "it could not be looked at: no such thing"),
        ("next", "ok", "too"),
    ]


def test_a_check_that_hangs_is_a_failure_and_the_next_is_made() -> None:
    go_on = threading.Event()
    link = Link(
        "x",
        [
            Check("first", lambda: [ok("")]),
            Check("hangs", lambda: [ok(str(go_on.wait(30)))]),
            Check("next", lambda: [ok("too")]),
        ],
    )
    assert [(check, level) for check, level, _ in found(link, check_s=0.05)] == [
        ("first", "ok"),
        ("hangs", "failure"),
        ("next", "ok"),
    ]
    go_on.set()


def test_one_link_that_hangs_stops_no_other() -> None:
    go_on = threading.Event()
    hangs = Link("x", [Check(f"{at}", lambda: [ok(str(go_on.wait(30)))]) for at in range(3)])
    others = Link("y", [Check("a", lambda: [ok("fine")])])
    levels = {(each.link, each.level) for each in examine([hangs, others], check_s=0.05, bound_s=0.1)}
    assert levels == {("x", "failure"), ("y", "ok")}
    go_on.set()


def test_without_a_connection_the_others_are_not_made() -> None:
    for first in (failure("no"), skipped("elsewhere")):
        link = Link("x", [Check(CONNECTION, lambda: [first]), Check("b", fails), Check("c", fails)])  # noqa: B023
        assert found(link)[1:] == [("others", "skipped", "not looked at: b, c")]


def test_the_worst_level() -> None:
    assert worst([]) == "ok"
    assert worst([ok(""), skipped("")]) in ("ok", "skipped")
    assert worst([ok(""), warning(""), skipped("")]) == "warning"
    assert worst([failure(""), warning("")]) == "failure"
