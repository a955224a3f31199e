"""Shows a status: with colours on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from time import sleep
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from risk_producer.settings import Settings
from risk_worker.status.look import Observer
from risk_worker.status.model import Status
from risk_worker.status.render import Line, as_json, lines, wrapped

WATCH_S: Final = 2.0
"""Between two looks of --watch."""
_STYLES: Final = {"": "", "head": "bold", "dim": "dim", "good": "green", "bad": "red", "note": "yellow"}


def show(status: Status, *, json: bool) -> None:
    """Print it. Raises OSError where that cannot be done."""
    if json:
        _print([as_json(status)])
        return
    console = _terminal()
    if console is None:
        _print(line.text for line in lines(status))
    else:
        console.print(_coloured(lines(status), console.width))


def watch(settings: Settings, *, json: bool) -> None:
    """Look and show again and again, until a signal ends the process. Raises as show()."""
    console = None if json else _terminal()
    with Observer(settings) as observer:
        if console is None or console.is_dumb_terminal:
            while True:
                status = observer.look()
                _print([as_json(status)] if json else [*(line.text for line in lines(status)), ""])
                sleep(WATCH_S)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                shown = fitted(lines(observer.look()), console.width, console.height)
                live.update(_coloured(shown, console.width), refresh=True)
                sleep(WATCH_S)


def fitted(whole: Sequence[Line], width: int, height: int) -> list[Line]:
    """The lines for a window: where there are too many, some are left out, never the problems."""
    last = max(at for at, line in enumerate(whole) if not line.text)
    ending = list(whole[last:])
    room = height - sum(len(list(wrapped(line, width))) for line in ending) - 1
    beginning = list(whole[:last])
    if len(beginning) <= room:
        return [*beginning, *ending]
    left_out = len(beginning) - max(1, room)
    return [*beginning[: max(1, room)], Line(f"({left_out} lines do not fit)", "dim"), *ending]


def _terminal() -> Console | None:
    """None: what is printed does not go to a terminal."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else None


def _coloured(shown: Sequence[Line], width: int) -> Text:
    text = Text(no_wrap=True)
    for line in shown:
        for piece in wrapped(line, width):
            text.append(f"{piece}\n", _STYLES[line.look])
    text.right_crop()
    return text


def _print(texts: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{text}\n" for text in texts))
    sys.stdout.flush()
