"""The command `riskstream demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
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
    """Run everything on embedded servers: traders, a worker killed half-way, the reconciliation."""
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
        click.echo(f"riskstream: {error}", err=True)
        status = 1
    sys.exit(status)
