"""migrate up, down, status, new, dump."""

from __future__ import annotations

import click

from risk_worker.cli.options import settings, settings_and_log


@click.group()
def migrate() -> None:
    """Bring the database's schema up to date."""


@migrate.command()
def up() -> None:
    """Apply what has not been applied yet."""
    from risk_worker.database import migrations

    chosen = settings_and_log()
    click.echo(migrations.up(chosen.require_database_url(), program=chosen.dbmate))


@migrate.command()
@click.option(
    "--drop-rows",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="So many rows may be dropped, exactly.",
)
def down(drop_rows: int) -> None:
    """Take the latest migration back, and drop what only it has a place for. For those who write migrations.

    It is no way back to an older version, which works on the newer tables. While the tables that it drops
    hold rows it is refused, unless --drop-rows names how many these are.
    """
    from risk_worker.database import migrations

    chosen = settings_and_log()
    url = chosen.require_database_url()
    click.echo(migrations.down(url, drop_rows=drop_rows, program=chosen.dbmate))


@migrate.command()
def status() -> None:
    """Show which migrations are applied."""
    from risk_worker.database import migrations

    chosen = settings()
    click.echo(migrations.status(chosen.require_database_url(), program=chosen.dbmate))


@migrate.command()
@click.argument("name")
def new(name: str) -> None:
    """Make an empty migration in ./db/migrations."""
    from risk_worker.database import migrations

    click.echo(migrations.new(name, program=settings().dbmate))


@migrate.command()
def dump() -> None:
    """Write ./db/schema.sql from the database."""
    from risk_worker.database import migrations

    chosen = settings()
    click.echo(migrations.dump(chosen.require_database_url(), program=chosen.dbmate))
