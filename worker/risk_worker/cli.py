"""The command line: each command reads its settings, then calls the one module that does the work.

Modules are imported by the command that needs them, so that `riskstream --help` is quick and a command
works without the extras of the others.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from risk_producer.errors import ConfigurationError, RiskError

if TYPE_CHECKING:
    from risk_producer.settings import Settings


class _Group(click.Group):
    """Turns an error with a message for the user into that message and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            click.echo(f"riskstream: {error}", err=True)
            sys.exit(2)
        except RiskError as error:
            click.echo(f"riskstream: {error}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="riskstream")
def cli() -> None:
    """Risk state of trading processes: exactly once into Postgres, through a capped Redis stream."""


def _settings() -> Settings:
    from risk_producer.settings import Settings

    return Settings.load()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s"
    )


@cli.command()
def config() -> None:
    """Print the settings in force, secrets masked."""
    for variable, value in _settings().shown().items():
        click.echo(f"{variable}={value}")


@cli.command()
@click.option("--burst", is_flag=True, help="Drain what is there, then leave.")
def worker(burst: bool) -> None:
    """Wait for Redis and Postgres, migrate, then drain the stream until stopped."""
    from risk_worker import rq_worker

    _log_to_stderr()
    rq_worker.run(_settings(), burst=burst)


@cli.group()
def migrate() -> None:
    """Bring the database's schema up to date, or back."""


@migrate.command()
def up() -> None:
    """Apply what has not been applied yet."""
    from risk_worker import migrations

    _log_to_stderr()
    click.echo(migrations.up(_settings().require_database_url()))


@migrate.command()
def down() -> None:
    """Take the latest migration back."""
    from risk_worker import migrations

    _log_to_stderr()
    click.echo(migrations.down(_settings().require_database_url()))


@migrate.command()
def status() -> None:
    """Show which migrations are applied."""
    from risk_worker import migrations

    click.echo(migrations.status(_settings().require_database_url()))


@migrate.command()
@click.argument("name")
def new(name: str) -> None:
    """Make an empty migration in ./db/migrations."""
    from risk_worker import migrations

    click.echo(migrations.new(name))


@migrate.command()
def dump() -> None:
    """Write ./db/schema.sql from the database."""
    from risk_worker import migrations

    click.echo(migrations.dump(_settings().require_database_url()))


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9400, show_default=True, type=click.IntRange(0, 65535))
def exporter(host: str, port: int) -> None:
    """Serve /metrics for Prometheus."""
    from risk_worker import exporter as module

    _log_to_stderr()
    module.serve(_settings(), host=host, port=port)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9181, show_default=True, type=click.IntRange(0, 65535))
def dashboard(host: str, port: int) -> None:
    """Serve rq-dashboard: the queue, the workers, the running drain jobs."""
    from risk_worker import dashboard as module

    _log_to_stderr()
    module.serve(_settings(), host=host, port=port)


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
@click.option("--no-wait", is_flag=True, help="Stop at the first line for which there is no room.")
def push(file: Path, dry_run: bool, form: str, no_wait: bool) -> None:
    """Push snapshots from FILE (or - for standard input): JSON lines, or CSV with a header row.

    When the stream is full, it waits until there is room. A line that is no snapshot is reported with its
    number, the others go through, and the exit status is 1.
    """
    from risk_worker import push as module

    sys.exit(module.push(_settings(), file, dry_run=dry_run, form=form, wait=not no_wait))


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
    from risk_worker import demo as module

    sys.exit(
        module.run(
            seconds=seconds,
            traders=traders,
            rate=rate,
            kill=not no_kill,
            dashboard=not no_dashboard,
            data=data,
            keep=keep,
        )
    )
