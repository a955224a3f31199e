"""What chaos and soak, which run for long, do alike: a folder, signals, the report, the exit status."""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options of both; long_run() reads `keep`."""
    made = argparse.ArgumentParser(prog=f"python -m tests.{name}", description=description)
    made.add_argument("--keep", action="store_true", help="keep logs, notes and data, whatever comes out")
    return made


def show(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def long_run(name: str, play: Callable[[Path], tuple[str, bool]], *, keep: bool) -> int:
    """Call play with a folder of its own, which goes where nothing is wrong; returns the exit status.

    play: returns its report, and whether something is wrong.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # so that nothing is left running
    folder = Path(tempfile.mkdtemp(prefix=f"riskstream-{name}-"))
    show(f"logs and data in {folder}")
    report, wrong = play(folder)
    show(report)
    if not wrong and not keep:
        shutil.rmtree(folder)
    return int(wrong)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
