"""partitions."""

from __future__ import annotations

import click

from risk_worker.cli.options import settings


@click.command()
@click.argument("number", required=False, type=click.IntRange(1, 256))
def partitions(number: int | None) -> None:
    """Show how many partitions there are and what they hold; with a NUMBER, change how many there are.

    Nothing has to be stopped for a change. Each producer follows with the first batch that it sends after it,
    and moves its traders, in order; workers drain the former partitions for as long as they hold something.
    """
    from risk_worker.recovery import repartition

    chosen = settings()
    click.echo(repartition.shown(chosen) if number is None else repartition.change(chosen, number))
