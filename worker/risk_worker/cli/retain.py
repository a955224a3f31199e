"""retain."""

from __future__ import annotations

import click

from risk_producer.errors import ConfigurationError
from risk_worker.cli.options import settings


@click.command()
@click.option("--dry-run", is_flag=True, help="Show how many rows would go, and remove nothing.")
@click.option(
    "--accept-difference",
    is_flag=True,
    help="Remove what is there also of days of which rows are missing, or were added, since they were "
    "sealed. The chain of seals then has both numbers, and seal verify shows them.",
)
def retain(dry_run: bool, accept_difference: bool) -> None:
    """Remove the rows of history that are older than RISK_RETAIN_FOR and sealed, as workers do by themselves.

    Each step is recorded in the chain of seals, so that what is gone is known to be gone on purpose. With
    TimescaleDB whole chunks go, so a row may stay longer by the length of a chunk.
    """
    from risk_worker.timescale import retention

    chosen = settings()
    days = chosen.retain_for_days
    if days is None:
        raise ConfigurationError(
            "RISK_RETAIN_FOR is forever, so nothing is removed; it expects a number of days like 90d"
        )
    url = chosen.require_database_url()
    if dry_run:
        due = retention.due(url, days)
        click.echo(f"{due.rows:,} rows that were recorded before {due.before} would be removed")
        return
    rows = 0
    for removed in retention.retain(url, days, accept_difference=accept_difference):
        rows += removed.rows
        click.echo(
            f"Removed {removed.rows:,} rows recorded before {removed.before}; "
            f"head to be kept: {removed.head_line}"
        )
    if not rows:
        click.echo("Nothing that is sealed is older")
