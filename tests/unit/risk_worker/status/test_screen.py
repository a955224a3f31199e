"""What fits into a window, and where colours are."""

from __future__ import annotations

import io

import pytest

from risk_worker.status import screen
from risk_worker.status.render import lines, wrapped
from risk_worker.status.screen import fitted
from tests.support.status import partitions, status


@pytest.mark.parametrize("height", [8, 12, 16, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_problems_are_always_seen(height: int, width: int) -> None:
    whole = lines(status(16, (), partitions=partitions(16, ())))
    shown = [piece for line in fitted(whole, width, height) for piece in wrapped(line, width)]
    assert shown[-1] == "1 problem"
    assert len(shown) <= max(height, 8)


def test_what_goes_into_a_pipe_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    screen.show(status(), json=False)
    assert out.getvalue().startswith("riskstream ")
    assert "\x1b" not in out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_has_colours_unless_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    screen.show(status(), json=False)
    assert "No problem was found." in out.getvalue()
    assert ("\x1b[32m" in out.getvalue()) is not no_color
