"""state, history, asof, curve, drawdown, pauses, pnl, stale, export: made of the declarations in query."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Final

import click

from risk_producer.errors import ConfigurationError
from risk_worker.cli.options import EXIT_BAD, settings
from risk_worker.query import files
from risk_worker.query.certainty import sentence
from risk_worker.query.formats import FORMATS, as_csv
from risk_worker.query.question import Question, name_of, parameters, row_of
from risk_worker.query.questions import QUESTIONS, Curve, Export
from risk_worker.times import zone_of

if TYPE_CHECKING:
    from risk_producer.settings import Settings

_PIECE: Final = 32_768
"""Characters that are printed at once."""


class _Rows:
    """The rows of the answer to a question, counted as they are read."""

    def __init__(self, question: type[Question[Any]], given: dict[str, Any]) -> None:
        from risk_worker.query.reader import RiskReader
        from risk_worker.stream.waiting import waiting

        chosen = settings()
        given = {name: value for name, value in given.items() if value is not None}
        self.asked = question(**(desk(chosen) | given))
        self.reader = RiskReader.from_settings(chosen, waiting=lambda: waiting(chosen))
        self._answer = self.reader.ask(self.asked)
        self.row = row_of(question)
        self.zone = zone_of(self.asked.tz)
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for row in self._answer:
            self.count += 1
            yield row

    def end(self, *, shows_certainty: bool) -> None:
        """Say on stderr that there was none. Where the trader is unknown, the exit status is 1."""
        values = self.asked.values
        trader = values.get("trader")
        if not self.count and trader is not None and not self.reader.knows(trader):
            click.echo(f"riskstream: nothing is stored of a trader {trader!r}", err=True)
            sys.exit(EXIT_BAD)
        if not self.count:
            click.echo("There is none.", err=True)
        if self._answer.certainty is not None and (shows_certainty or not self.count):
            click.echo(sentence(self._answer.certainty, values, self.zone), err=True)


def desk(chosen: Settings) -> dict[str, str]:
    """Where its time zone is, and when its days end. Raises ConfigurationError."""
    try:
        zone_of(chosen.tz)
    except ValueError as error:
        raise ConfigurationError(f"RISK_TZ: {error}") from None
    return {"tz": chosen.tz, "day_ends": chosen.day_ends}


def _print(pieces: Iterable[str]) -> None:
    waiting, length = [], 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= _PIECE:
            click.echo("".join(waiting), nl=False)
            waiting, length = [], 0
    click.echo("".join(waiting), nl=False)


def options_of(question: type[Question[Any]]) -> Iterator[click.Parameter]:
    """Of the command line: its parameters."""
    for name, (parameter, default) in parameters(question).items():
        if parameter.positional:
            yield click.Argument([name], required=default is MISSING)
            continue
        bare: dict[str, Any] = {"is_flag": False, "flag_value": parameter.bare} if parameter.bare else {}
        yield click.Option(
            [f"--{name.replace('_', '-')}", name], help=parameter.help, metavar=parameter.metavar, **bare
        )


def _answer(question: type[Question[Any]], form: str, given: dict[str, Any]) -> None:
    """Ask a question, and print the answer."""
    rows = _Rows(question, given)
    _print(FORMATS[form](rows, rows.row, rows.zone))
    rows.end(shows_certainty=form == "table")


def _command(question: type[Question[Any]]) -> click.Command:
    """The command that asks a question and prints the answer."""

    def ask(form: str, **given: Any) -> None:
        _answer(question, form, given)

    return click.Command(
        name_of(question),
        callback=ask,
        params=[*options_of(question), _format()],
        help=inspect.getdoc(question),
    )


def _format() -> click.Option:
    return click.Option(
        ["--format", "form"], type=click.Choice(list(FORMATS)), default="table", show_default=True
    )


def file_option(name: str, help: str, *, required: bool = False) -> click.Option:
    """An option with the name of a file that is written."""
    kind = click.Path(path_type=Path, dir_okay=False)
    help = f"{help}, in the place of one that is there."
    return click.Option([name], metavar="FILE", type=kind, required=required, help=help)


def _curve(form: str, plot: bool, png: Path | None, svg: Path | None, **given: Any) -> None:
    if not (plot or png or svg):
        _answer(Curve, form, given)
        return
    from risk_worker.picture import svg as drawn
    from risk_worker.picture import terminal
    from risk_worker.picture.ask import ask

    if png is not None:
        from risk_worker.picture import png as painted
    encoding = sys.stdout.encoding or "ascii"
    if plot and not terminal.can_be_shown(encoding):
        raise click.UsageError(
            f"{encoding} has no characters to draw with: set PYTHONIOENCODING=utf-8, or take --svg"
        )
    rows = _Rows(Curve, given)
    assert isinstance(rows.asked, Curve)
    picture = ask(rows.reader, rows.asked)
    rows.count = len(picture.lines)
    rows.end(shows_certainty=False)
    if svg is not None:
        with files.whole(svg) as part:
            part.write_text(drawn.draw(picture), encoding="utf-8")
    if png is not None:
        with files.whole(png) as part:
            painted.draw(picture, part)
    if plot:
        _print(terminal.draw(picture, get_terminal_size().columns))


def _export(out: Path | None, form: str | None, plain: bool, **given: Any) -> None:
    if form is None:
        ending = "" if out is None else out.suffix.lower().removeprefix(".")
        form = ending if ending in files.FORMS else "csv"
    if form == "parquet" and out is None:
        raise click.UsageError("A file of Parquet needs a name: --out FILE")
    rows = _Rows(Export, given)
    if out is not None:
        files.write(rows, rows.row, out, form, rows.zone, spreadsheet=not plain)
        click.echo(f"{rows.count:,} rows are in {out}", err=True)
    elif form == "csv":
        _print(as_csv(rows, rows.row, rows.zone, spreadsheet=not plain))
    else:
        _print(FORMATS[form](rows, rows.row, rows.zone))
    rows.end(shows_certainty=out is not None)


_commands: Final = {name_of(question): _command(question) for question in QUESTIONS}
state, history, asof, drawdown, pauses, pnl, stale = (
    _commands[name] for name in ("state", "history", "asof", "drawdown", "pauses", "pnl", "stale")
)
curve = click.Command(
    "curve",
    callback=_curve,
    params=[
        *options_of(Curve),
        _format(),
        click.Option(
            ["--plot"],
            is_flag=True,
            help="Draw it here, instead of the rows: equity, peak, pauses, drawdown.",
        ),
        file_option("--png", "Draw it into this file (pip install 'riskstream[plots]')"),
        file_option("--svg", "Draw it into this file"),
    ],
    help=inspect.getdoc(Curve),
)
export = click.Command(
    "export",
    callback=_export,
    params=[
        *options_of(Export),
        file_option("--out", "Write into this file"),
        click.Option(
            ["--format", "form"],
            type=click.Choice(files.FORMS),
            help="Default: by the ending of FILE, else csv. Parquet: pip install 'riskstream[parquet]'.",
        ),
        click.Option(
            ["--plain"],
            is_flag=True,
            help="CSV for programs: texts as they are. Else a text that a spreadsheet would run as a formula "
            "has a ' before it, and a file begins with a byte order mark, by which Excel knows UTF-8.",
        ),
    ],
    help=inspect.getdoc(Export),
)
