"""As wide as the terminal, without colours; silences are empty, pauses have a line of their own."""

from __future__ import annotations

from datetime import UTC, timedelta
from random import Random

import pytest

from risk_worker.picture import terminal
from risk_worker.picture.curve import picture_of
from tests.support.facts import BUCKET, DAY, UNFRIENDLY, curve_rows, pause


def drawn(columns: int = 100, name: str = "a", *, empty: bool = False) -> list[str]:
    rows = [] if empty else curve_rows(Random(1), without=[range(48, 72)])
    pauses = [pause(name, DAY + timedelta(hours=18), None)]
    made = picture_of(name, rows, pauses, bucket=BUCKET, since=DAY, until=DAY + timedelta(days=1), zone=UTC)
    return "".join(terminal.draw(made, columns)).splitlines()


def strip(lines: list[str], name: str) -> str:
    [found] = [line.partition("│")[2] for line in lines if line.strip().startswith(f"{name} │")]
    return found


@pytest.mark.parametrize("columns", [20, 60, 80, 132, 10_000])
def test_the_drawing_is_as_wide_as_the_terminal(columns: int) -> None:
    lines = [line for line in drawn(columns) if "│" in line or "┤" in line or "└" in line]
    assert max(map(len, lines)) <= max(columns, 40)
    assert min(columns, 200) - 14 <= max(map(len, lines))


def test_gaps_and_pauses() -> None:
    lines = drawn()
    silence, paused = strip(lines, "no snapshot"), strip(lines, "paused")
    first, last = silence.index("╌"), silence.rindex("╌")
    width = len(paused)
    assert first / width == pytest.approx(8 / 24, abs=0.02)
    assert last / width == pytest.approx(12 / 24, abs=0.02)
    assert paused.count("━") / width == pytest.approx(6 / 24, abs=0.03)
    panels = [
        line.partition("│")[2] or line.partition("┤")[2]
        for line in lines
        if "⠀" < max(line, default="") < "⣿⣿"
    ]
    drawn_over = "".join(panel[first + 1 : last] for panel in panels)
    assert not drawn_over.strip()
    assert any(panel[:first].strip() and panel[last + 1 :].strip() for panel in panels)


def test_the_worst_drawdown_hangs_deepest() -> None:
    lines = drawn()
    lower = lines[next(n for n, line in enumerate(lines) if line.strip() == "drawdown") + 1 :][:5]
    filled = [sum("⠀" < each <= "⣿" for each in line) for line in lower]
    assert filled == sorted(filled, reverse=True)
    assert filled[0] > filled[-1] >= 0


@pytest.mark.parametrize("name", UNFRIENDLY)
def test_a_name_does_nothing_to_the_terminal(name: str) -> None:
    assert all(each.isprintable() or each in "\u202f" for line in drawn(name=name) for each in line)


def test_without_a_snapshot() -> None:
    lines = drawn(empty=True)
    assert strip(lines, "no snapshot").count("╌") > 60


def test_encodings() -> None:
    assert terminal.can_be_shown("utf-8")
    assert not terminal.can_be_shown("latin-1")
    assert not terminal.can_be_shown("no-such-encoding")
