"""What several commands share: types of options, settings, logging, and how a command ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from risk_worker import times

if TYPE_CHECKING:
    from risk_producer.settings import Settings
    from risk_producer.settings.pairs import Role
    from risk_worker.seal.verify import Progress

EXIT_BAD: Final = 1
"""The command was carried out, and what it found is not good."""
EXIT_UNASKED: Final = 2
"""It was asked wrongly, or what it needs could not be asked."""
PROGRESS_EVERY_S: Final = 5.0


def settings(role: Role | None = None) -> Settings:
    """The settings of the environment; variables that are nearly one are named on stderr.

    role: see Settings.load().
    """
    from risk_producer.settings import Settings, misspelt

    for variable, meant in misspelt(os.environ).items():
        click.echo(f"riskstream: {variable} is no setting; do you mean {meant}?", err=True)
    return Settings.load(role=role)


def settings_and_log(role: Role | None = None) -> Settings:
    """For the commands that run until they are stopped: their settings, and their log on stderr."""
    from risk_producer.settings import Settings, warn_of_misspelt
    from risk_worker import logs

    with logs.HeldBack() as held:
        warn_of_misspelt()
        chosen = Settings.load(role=role)
    logs.to_stderr(chosen.log_level, chosen.log_format)
    held.write()
    return chosen


def complain(error: Exception) -> None:
    """One line on stderr, where that can be written; the exit status does not depend on it."""
    try:
        click.echo(f"riskstream: {error}", err=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Drop what a stream holds and cannot write: Python would try it again at its end, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def echo_pieces(pieces: Iterable[str]) -> None:
    """Print what may be too much to hold at once."""
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


def progress_on_stderr() -> Progress:
    """Shows every PROGRESS_EVERY_S how far reading is."""
    shown = 0.0

    def show(done: int, runs: int, rows: int, seconds: float) -> None:
        nonlocal shown
        if seconds - shown >= PROGRESS_EVERY_S:
            shown = seconds
            click.echo(f"{done:,} of {runs:,} runs, {rows:,} rows, {rows / seconds:,.0f} rows/s", err=True)

    return show


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A length of time: 90s, 15m, 2h, 7d."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return times.length_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A moment, or a length of time before now; in UTC where it names no zone."""

    name = "age or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return times.moment_of(value, now=datetime.now(UTC))
        except ValueError as error:
            self.fail(str(error), param, ctx)
