"""Which ports `riskstream up` takes, and what it does about a process that ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from risk_devkit import up as module
from risk_devkit.embedded import free_port
from risk_devkit.up import BOT, DIES_EARLY_S, Up, UpFailed

ROOT = Path(__file__).parents[3]


class Ended:
    """Stands for a child that has ended."""

    running = False
    pid = 7

    def __init__(self, *_: Any) -> None:
        pass

    def log_tail(self) -> str:
        return "why"

    def stop(self) -> None:
        pass


class Running(Ended):
    running = True


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Up, list[str]]]:
    said: list[str] = []
    with ExitStack() as stack:
        up = Up(stack, tmp_path, {}, said.append)
        up._urls = ("redis://127.0.0.1:1/0", "postgresql://127.0.0.1:1/risk")
        up._ports = {"exporter": 1, "dashboard": 2}
        yield up, said


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_bot_is_the_one_of_the_pages() -> None:
    assert (ROOT / "examples" / "first_bot.py").read_text() == BOT
    assert len([line for line in BOT.splitlines() if line]) == 5


def test_what_has_run_for_a_while_is_started_again(
    made: tuple[Up, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    up, said = made
    monkeypatch.setattr(module, "Child", Running)
    up._children = {"worker": (Ended(), monotonic() - DIES_EARLY_S - 1)}  # type: ignore[dict-item]

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        up.stay()
    assert said == ["The worker, process 7, has ended; it is started again."]
    assert up._children["worker"][0].running


def test_what_ends_at_once_is_a_failure(made: tuple[Up, list[str]]) -> None:
    up, _ = made
    up._children = {"exporter": (Ended(), monotonic())}  # type: ignore[dict-item]
    with pytest.raises(UpFailed, match="the exporter has ended; its log says:\nwhy"):
        up.stay()


def test_a_port_is_the_chosen_one_or_that_of_the_last_run_or_a_free_one(tmp_path: Path, taken: int) -> None:
    free = free_port()
    up = Up(ExitStack(), tmp_path, {"redis": free, "dashboard": taken}, print)
    up._ports = {"postgres": taken, "exporter": free}
    assert up._port("redis") == free
    assert up._port("exporter") == free
    assert up._port("postgres") != taken
    with pytest.raises(UpFailed, match=f"the port {taken} .* --dashboard-port chooses another one"):
        up._port("dashboard")


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", '{"redis": "x"}', '{"redis": 70000}', '{"redis": -1}', "\x00"]
)
def test_ports_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ports.json"
    assert module._remembered(file) == {}
    file.write_text(content)
    assert module._remembered(file) == {}
