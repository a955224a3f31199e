"""import-original."""

from __future__ import annotations

import sys

import click

from risk_worker.cli.options import EXIT_BAD, settings


@click.command()
@click.option(
    "--leave-out", is_flag=True, help="Import the others where history cannot hold some rows of the original."
)
def import_original(leave_out: bool) -> None:
    """Take over the tables of the system that riskstream replaces: move them, migrate, copy, compare.

    They stay as they are in the schema old_risk. The command may be repeated. Stop that system before, and
    start traders afterwards.
    """
    from risk_worker.ingest import original as module

    found = module.take_over(settings(), leave_out=leave_out, report=click.echo)
    for each in found.examples:
        click.echo(f"History cannot hold: {each}", err=True)
    if found.unfit > len(found.examples):
        click.echo(f"... and {found.unfit - len(found.examples):,} more", err=True)
    if found.unfit and not leave_out:
        click.echo(
            f"Nothing was copied: history cannot hold {found.unfit:,} rows of the original. Correct them in "
            "the schema old_risk, or import the others with --leave-out; then they stay in old_risk alone.",
            err=True,
        )
        sys.exit(EXIT_BAD)
    click.echo(
        f"{found.rows:,} rows of {found.traders:,} traders are in history under epoch 1, each as the "
        f"original has it: {found.new_rows:,} new, {found.rows - found.new_rows:,} imported before"
    )
    click.echo(f"{found.new_states:,} traders got their state")
    if found.unfit:
        click.echo(f"{found.unfit:,} rows are in the schema old_risk alone")
