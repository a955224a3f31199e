"""The commands `riskstream up` and `riskstream demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(".riskstream/up"),
    show_default=True,
    help="Folder of the data, the logs and the ports; a later run on it goes on with them.",
)
@click.option("--redis-port", type=PORT, help="Default: that of the last run, or a free one.")
@click.option("--postgres-port", type=PORT, help="Default: that of the last run, or a free one.")
@click.option("--exporter-port", type=PORT, help="Default: that of the last run, 9400, or a free one.")
@click.option("--dashboard-port", type=PORT, help="Default: that of the last run, 9181, or a free one.")
def up(data: Path, **ports: int | None) -> None:
    """Run all that a bot needs until Ctrl-C: embedded servers, worker, exporter, dashboard.

    It prints what to export in the bot's terminal, and a bot of five lines. Settings of this terminal are not
    used. What is stored stays in the folder.
    """
    from risk_devkit import up as module

    chosen = {name.removesuffix("_port"): port for name, port in ports.items() if port is not None}
    try:
        status = module.run(data, chosen, click.echo)
    except module.UpFailed as error:
        click.echo(f"riskstream: {error}", err=True)
        status = 1
    sys.exit(status)


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
