"""repair."""

from __future__ import annotations

import click

from risk_worker.cli.options import settings


@click.command()
@click.argument("trader")
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
def repair(trader: str, dry_run: bool) -> None:
    """Set right what Redis holds of a trader and cannot be read, or is not its own, from Postgres.

    Each change is recorded in the stream risk:{p}:repairs: who, when, and what was there before.
    """
    from risk_worker.recovery import repair as module

    changes = module.repair(settings(), trader, dry_run=dry_run)
    for change in changes:
        click.echo(str(change))
    if not changes:
        click.echo(f"What Redis holds of {trader!r} can be read; nothing to repair.", err=True)
