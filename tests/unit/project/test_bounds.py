"""Every bound that docs/reliability.md promises is measured by a test, and what is measured is promised."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.bounds import PAGE, promises, written

TESTS = Path(__file__).parents[2]
_CALL = re.compile(r"\bbound\(\s*f?\"([^\"]+)\"")
PROMISES = promises(PAGE.read_text())


def measured() -> set[str]:
    """The names that tests give to bound(); {…} in one stands for any text."""
    texts = [path.read_text() for path in TESTS.glob("integration/**/test_*.py")]
    return {name for text in texts for name in _CALL.findall(text)}


def test_promises_and_measurements_are_the_same() -> None:
    patterns = [re.sub(r"\\\{.*?\\\}", ".*", re.escape(name)) for name in measured()]
    assert len(PROMISES) > 15
    for when in PROMISES:
        assert any(re.fullmatch(pattern, when) for pattern in patterns), f"no test measures: {when}"
    for pattern in patterns:
        assert any(re.fullmatch(pattern, when) for when in PROMISES), f"no such promise: {pattern}"


def test_what_was_seen_is_written_beside_its_promise() -> None:
    page = PAGE.read_text()
    first, second, third, *_ = PROMISES
    after = written(page, {first: [1.0, 2.34], second: [0.04]})
    assert f"| {first} |" in after
    rows = [line[2:].split(" | ") for line in after.splitlines() if line.count(" | ") == 4]
    cells = {row[0]: row[3] for row in rows}
    assert (cells[first], cells[second]) == ("2.3 s", "0.0 s")
    assert f"| {cells[third]} |" in next(
        line for line in page.splitlines() if line.startswith(f"| {third} |")
    )
    assert promises(after) == PROMISES
    assert written(after, {first: [1.0, 2.34], second: [0.04]}) == after
