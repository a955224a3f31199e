"""The command line: each command reads its settings, then calls the one module that does the work.

Modules are imported by the command that needs them, so that `riskstream --help` is quick and a command
works without the extras of the others.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from risk_producer.errors import ConfigurationError, RiskError

if TYPE_CHECKING:
    from risk_producer.settings import Settings
    from risk_worker.dead_letters.dead import DeadLetters, Letter, Wanted


EXIT_BAD: Final = 1
"""The command was carried out, and what it found is not good."""
EXIT_UNASKED: Final = 2
"""It was asked wrongly, or what it needs could not be asked."""


class _Group(click.Group):
    """Turns an error with a message for the user into that message and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RiskError as error:
            _complain(error)
            sys.exit(EXIT_UNASKED)
        except BrokenPipeError:
            # As of a program that SIGPIPE ends. What is buffered has nowhere to go either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as error:
            sys.exit(128 + getattr(error, "signal", signal.SIGINT))
        except OSError as error:
            _complain(error)
            sys.exit(EXIT_UNASKED)


def _complain(error: Exception) -> None:
    click.echo(f"riskstream: {error}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="riskstream")
def cli() -> None:
    """Risk state of trading processes: exactly once into Postgres, through a capped Redis stream.

    Exit status: 0, all is well. 1, the command was carried out and what it found is not good. 2, it was asked
    wrongly, or Redis or Postgres could not be asked.
    """


def _settings() -> Settings:
    from risk_producer.settings import Settings, misspelt

    for variable, meant in misspelt(os.environ).items():
        click.echo(f"riskstream: {variable} is no setting; do you mean {meant}?", err=True)
    return Settings.load()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s"
    )
    # RQ says so at each of an idle worker's glances at the queue.
    logging.getLogger("rq.worker").addFilter(lambda record: "cleaning" not in str(record.msg))


@cli.command()
def config() -> None:
    """Print the settings in force, secrets masked."""
    for variable, value in _settings().shown().items():
        click.echo(f"{variable}={value}")


@cli.command()
@click.option("--burst", is_flag=True, help="Drain what is there, then leave.")
def worker(burst: bool) -> None:
    """Wait for Redis and Postgres, migrate, then drain the stream until stopped."""
    from risk_worker.runtime import worker as rq_worker

    _log_to_stderr()
    rq_worker.run(_settings(), burst=burst)


@cli.group()
def migrate() -> None:
    """Bring the database's schema up to date, or back."""


@migrate.command()
def up() -> None:
    """Apply what has not been applied yet."""
    from risk_worker.database import migrations

    _log_to_stderr()
    click.echo(migrations.up(_settings().require_database_url()))


@migrate.command()
def down() -> None:
    """Take the latest migration back."""
    from risk_worker.database import migrations

    _log_to_stderr()
    click.echo(migrations.down(_settings().require_database_url()))


@migrate.command()
def status() -> None:
    """Show which migrations are applied."""
    from risk_worker.database import migrations

    click.echo(migrations.status(_settings().require_database_url()))


@migrate.command()
@click.argument("name")
def new(name: str) -> None:
    """Make an empty migration in ./db/migrations."""
    from risk_worker.database import migrations

    click.echo(migrations.new(name))


@migrate.command()
def dump() -> None:
    """Write ./db/schema.sql from the database."""
    from risk_worker.database import migrations

    click.echo(migrations.dump(_settings().require_database_url()))


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9400, show_default=True, type=click.IntRange(0, 65535))
def exporter(host: str, port: int) -> None:
    """Serve /metrics for Prometheus."""
    from risk_worker.monitor import exporter as module

    _log_to_stderr()
    module.serve(_settings(), host=host, port=port)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9181, show_default=True, type=click.IntRange(0, 65535))
def dashboard(host: str, port: int) -> None:
    """Serve rq-dashboard: the queue, the workers, the running drain jobs."""
    from risk_worker.runtime import dashboard as module

    _log_to_stderr()
    module.serve(_settings(), host=host, port=port)


def _echo_pieces(pieces: Iterable[str]) -> None:
    """Print what may be too much to hold at once."""
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


class _Age(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A length of time: 90s, 15m, 2h, 7d."""

    name = "age"
    _UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if found is None:
            self.fail(f"{value!r} is not a length of time like 90s, 15m, 2h or 7d", param, ctx)
        return timedelta(**{self._UNITS[found[2]]: int(found[1])})


class _Moment(_Age):
    """A length of time before now, or a moment."""

    name = "age or time"

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | datetime:
        if isinstance(value, datetime) or re.fullmatch(r"\d{1,6}[smhd]", value):
            return value if isinstance(value, datetime) else super().convert(value, param, ctx)
        try:
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError:
            self.fail(
                f"{value!r} is neither a length of time like 90d nor a time like 2026-01-31", param, ctx
            )


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose dead letters."""
    for option in (
        click.option("--newer-than", type=_Age(), help="Put there less than this long ago, like 1h."),
        click.option("--older-than", type=_Age(), help="Put there longer ago than this, like 1h or 7d."),
        click.option("--reason", help="Those with this text in their reason."),
        click.option("--trader", help="Those of one trader."),
    ):
        command = option(command)
    return command


def _named(command: Callable[..., None]) -> Callable[..., None]:
    """The filters, or the one letter that the arguments STREAM and ENTRY_ID name."""
    command = click.argument("entry_id", required=False)(command)
    return click.argument("stream", required=False)(_filters(command))


def _wanted(
    trader: str | None,
    reason: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    stream: str | None = None,
    entry_id: str | None = None,
) -> Wanted:
    from risk_worker.dead_letters.dead import Wanted

    if stream is not None and entry_id is None:
        raise click.UsageError(
            "One letter is named by two arguments: STREAM ENTRY_ID, as the list shows them."
        )
    return Wanted(stream, entry_id, trader, reason, older_than, newer_than)


def _dead_letters() -> DeadLetters:
    from risk_worker.dead_letters.dead import DeadLetters

    return DeadLetters(_settings().require_database_url())


@cli.group()
def dead() -> None:
    """Look at what could not be stored, try it again, or drop it."""


@dead.command("list")
@_filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0), help="0: all of them.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with the original bytes.")
def dead_list(limit: int, as_json: bool, **filters: Any) -> None:
    """List dead letters, the oldest first: stream, entry id, since when, trader/epoch/seq, reason."""
    from risk_worker.dead_letters import dead as module

    letters, wanted = _dead_letters(), _wanted(**filters)
    if as_json:
        _echo_pieces(module.as_json(letters.letters(wanted, limit=limit or None)))
        return
    shown = 0
    for letter in letters.letters(wanted, limit=limit or None):
        click.echo(module.one_line(letter))
        shown += 1
    count = letters.count(wanted)[0] if shown == limit else shown
    click.echo(f"{count:,} dead letters" + (f", {shown:,} shown" if count > shown else ""), err=True)


@dead.command("show")
@click.argument("stream")
@click.argument("entry_id")
@click.option("--json", "as_json", is_flag=True)
def dead_show(stream: str, entry_id: str, as_json: bool) -> None:
    """Show one dead letter with its payload."""
    from risk_worker.dead_letters import dead as module

    found = list(_dead_letters().letters(module.Wanted(stream, entry_id)))
    if not found:
        click.echo(f"riskstream: there is no dead letter {stream} {entry_id}", err=True)
        sys.exit(1)
    _echo_pieces(module.as_json(found) if as_json else [module.in_full(found[0])])


@dead.command("retry")
@_named
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
def dead_retry(dry_run: bool, **filters: Any) -> None:
    """Store what can be stored by now: one letter (STREAM ENTRY_ID), those of the filters, or all.

    The way is that of the worker: history is filled, the state never goes back. What still cannot be stored
    stays dead with its new reason, and the exit status is 1.
    """
    letters, wanted = _dead_letters(), _wanted(**filters)
    if dry_run:
        count = tries = 0
        for letter, outlook, would_try in letters.foresee(wanted):
            click.echo(f"{letter.stream} {letter.entry_id}  {outlook}")
            count += 1
            tries += would_try
        click.echo(f"{count:,} dead letters, {tries:,} would be tried; nothing was changed", err=True)
        _none_found(count, wanted)
        return

    def say(letter: Letter, why_not: str | None) -> None:
        click.echo(f"{letter.stream} {letter.entry_id}  {f'still dead: {why_not}' if why_not else 'stored'}")

    retried = letters.retry(wanted, said=say)
    already = f" ({retried.duplicates:,} of them had been before)" if retried.duplicates else ""
    click.echo(f"{retried.stored:,} stored{already}, {retried.still_dead:,} still dead", err=True)
    _none_found(retried.stored + retried.still_dead, wanted)
    if retried.still_dead:
        sys.exit(1)


@dead.command("drop")
@_named
@click.option("--all", "everything", is_flag=True, help="Needed where no filter is given.")
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead_drop(everything: bool, dry_run: bool, yes: bool, **filters: Any) -> None:
    """Delete dead letters for good: one (STREAM ENTRY_ID), those of the filters, or --all.

    A snapshot that is dropped is a hole in history from then on, and `riskstream verify` names it.
    """
    from risk_worker.dead_letters import dead as module

    letters, wanted = _dead_letters(), _wanted(**filters)
    if wanted.everything and not everything:
        raise click.UsageError("Say which: STREAM ENTRY_ID, a filter, or --all.")
    if dry_run:
        count = 0
        for letter in letters.letters(wanted):
            click.echo(module.one_line(letter))
            count += 1
        click.echo(f"{count:,} dead letters would be dropped; nothing was changed", err=True)
    else:
        count, seen = letters.count(wanted)
        if count and not yes:
            click.confirm(f"Drop {count:,} dead letters for good?", abort=True, err=True)
        count = letters.drop(seen) if count else 0
        click.echo(f"{count:,} dead letters dropped", err=True)
    _none_found(count, wanted)


def _none_found(count: int, wanted: Wanted) -> None:
    """One letter that was asked for by name should be there."""
    if count == 0 and wanted.entry_id is not None:
        click.echo(f"riskstream: there is no dead letter {wanted.stream} {wanted.entry_id}", err=True)
        sys.exit(1)


@cli.command()
@click.option("--trader", help="Only the books of one trader, each of its lives with a line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the sums, and what is off.")
@click.option(
    "--retained-since",
    type=_Moment(),
    help="What was recorded before this time (2026-01-31), or longer ago than this (90d), need not be in "
    "history. TimescaleDB says it by itself.",
)
def verify(trader: str | None, as_json: bool, retained_since: timedelta | datetime | None) -> None:
    """Check the books: nothing lost, nothing twice, no state behind.

    accepted + foreign = stored + dead + conflated + in flight + not retained. It may run at any time. Exit
    status 0: they balance. 1: something is off, and it is named, or the trader is unknown. 2: nothing can be
    said, because Redis or Postgres could not be asked.
    """
    from risk_worker.audit import verify as module

    try:
        report = module.verify(_settings(), trader, retained_since)
    except module.TraderUnknown as error:
        _complain(error)
        sys.exit(EXIT_BAD)
    _echo_pieces(report.as_json() if as_json else [report.as_text(each_life=trader is not None)])
    sys.exit(0 if report.balanced else EXIT_BAD)


@cli.command()
@click.argument("trader")
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
def repair(trader: str, dry_run: bool) -> None:
    """Set right what Redis holds of a trader and cannot be read, or is not its own, from Postgres.

    Each change is recorded in the stream risk:{p}:repairs: who, when, and what was there before.
    """
    from risk_worker.recovery import repair as module

    changes = module.repair(_settings(), trader, dry_run=dry_run)
    for change in changes:
        click.echo(str(change))
    if not changes:
        click.echo(f"What Redis holds of {trader!r} can be read; nothing to repair.", err=True)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@click.option("--dry-run", is_flag=True, help="Only check the lines; send nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "csv"]),
    default="auto",
    show_default=True,
    help="auto: by the file's ending, else by its first character.",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Give up instead: at the first line that finds no room within RISK_SAVE_TIMEOUT_S, and on what is "
    "not in Redis 2 s after the last line.",
)
@click.option(
    "--recorded-at",
    type=click.Choice(["now"]),
    help="A record without recorded_at is of the time at which it is read. Else it is bad.",
)
@click.option(
    "--trading-paused",
    type=click.Choice(["false", "true"]),
    help="What a record without trading_paused means. Else it is bad.",
)
def push(
    file: Path, dry_run: bool, form: str, no_wait: bool, recorded_at: str | None, trading_paused: str | None
) -> None:
    """Push snapshots from FILE (or - for standard input): JSON lines, or CSV with a header row.

    When the stream is full, and while Redis is away or cannot be used, it waits without end; Ctrl-C gives up.
    A line that is no snapshot is reported with its number, the others go through, and the exit status is 1.
    Of a CSV file whose quotes are broken nothing is used.
    """
    from risk_worker.ingest import push as module
    from risk_worker.ingest.records import Defaults

    defaults = Defaults(
        recorded_now=recorded_at == "now",
        trading_paused=None if trading_paused is None else trading_paused == "true",
    )
    sys.exit(module.push(_settings(), file, dry_run=dry_run, form=form, wait=not no_wait, defaults=defaults))


@cli.command()
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(min=2, max=3600))
@click.option("--traders", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--rate",
    default=1000.0,
    show_default=True,
    type=click.FloatRange(min=1, max=1_000_000),
    help="Snapshots a second, all traders together.",
)
@click.option("--no-kill", is_flag=True, help="Do not kill the worker half-way.")
@click.option("--no-dashboard", is_flag=True, help="Do not start rq-dashboard.")
@click.option("--keep", is_flag=True, help="Keep everything running at the end, to look around.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".riskstream/demo"), show_default=True)
def demo(
    seconds: float, traders: int, rate: float, no_kill: bool, no_dashboard: bool, keep: bool, data: Path
) -> None:
    """Run everything on embedded servers: traders, a worker killed half-way, the balance sheet."""
    from risk_devkit import demo as module

    try:
        status = module.run(
            seconds=seconds,
            traders=traders,
            rate=rate,
            kill=not no_kill,
            dashboard=not no_dashboard,
            data=data,
            keep=keep,
        )
    except module.DemoFailed as error:
        _complain(error)
        status = EXIT_BAD
    sys.exit(status)


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure against the yardsticks, on embedded servers; --help has the options."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks").is_dir():
        raise ConfigurationError("The benchmarks are not part of the package: run it in a checkout")
    sys.exit(subprocess.call([sys.executable, "-m", "benchmarks", *arguments], cwd=checkout))
