"""When a stream is full, and for how long: one line each, however often it changes in between."""

from __future__ import annotations

from risk_producer.session.fullness import QUIET_S, Fullness


def test_a_line_when_it_begins_and_one_when_it_is_over() -> None:
    fullness = Fullness()

    def look(full: bool, now: float, rejected: int) -> str | None:
        return fullness.look(full, now, cap=1_000, rejected=rejected)

    assert look(False, 1, 5) is None
    begins = look(True, 10, 7)
    assert begins is not None and "its cap is 1,000 entries" in begins
    assert look(True, 11, 8) is None
    assert look(False, 12, 9) is None
    assert look(True, 13, 9) is None
    assert look(False, 13 + QUIET_S - 0.1, 17) is None
    assert look(False, 13 + QUIET_S, 17) == (
        "The streams were full for 3.0 s: 12 snapshots were rejected meanwhile"
    )
    assert look(False, 30, 20) is None
    assert look(True, 40, 20) is not None, "another time"


def test_the_end_of_the_producer_ends_it() -> None:
    fullness = Fullness()
    assert fullness.end(3) is None
    fullness.look(True, 10, cap=1, rejected=0)
    assert fullness.end(3) == "The streams were full for 0.0 s: 3 snapshots were rejected meanwhile"
    assert fullness.end(3) is None
