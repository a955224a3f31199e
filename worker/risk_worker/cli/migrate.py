"""migrate up, down, status, new, dump."""

from __future__ import annotations

import click

from risk_worker.cli.options import log_to_stderr, settings


@click.group()
def migrate() -> None:
    """Bring the database's schema up to date, or back."""


@migrate.command()
def up() -> None:
    """Apply what has not been applied yet."""
    from risk_worker.database import migrations

    log_to_stderr()
    click.echo(migrations.up(settings().require_database_url()))


@migrate.command()
def down() -> None:
    """Take the latest migration back."""
    from risk_worker.database import migrations

    log_to_stderr()
    click.echo(migrations.down(settings().require_database_url()))


@migrate.command()
def status() -> None:
    """Show which migrations are applied."""
    from risk_worker.database import migrations

    click.echo(migrations.status(settings().require_database_url()))


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

    click.echo(migrations.dump(settings().require_database_url()))
