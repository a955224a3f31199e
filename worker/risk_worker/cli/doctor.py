"""doctor."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import click

from risk_worker.cli.options import EXIT_BAD

_COLOURS: Final = {"ok": "green", "warning": "yellow", "failure": "red", "skipped": "bright_black"}
ROLES: Final = ("trader", "worker", "exporter", "reader", "dashboard", "dashboard-actions", "operator")


@click.command()
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="worker",
    show_default=True,
    help="What the user of Redis is for, as in ops/redis/users.acl; rights that it lacks are named.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the worst level, and all findings.")
def doctor(role: str, as_json: bool) -> None:
    """Try every link: settings, Redis, RQ's Redis, Postgres, and what they have to agree on; say what to do.

    Run it where a worker runs, with its environment; or where another program runs, with that one's and its
    --role. A worker's probe goes through Redis and Postgres and leaves nothing behind. It takes a second or
    two, and some twenty at the most. Exit status 0: no failure; there may be warnings. 1: there is a failure.
    """
    from risk_worker.doctor import examination
    from risk_worker.doctor.check import worst

    logging.getLogger("riskstream").addHandler(logging.NullHandler())  # the findings say the same
    findings = examination.examination(os.environ, role)
    if as_json:
        click.echo(examination.as_json(findings))
    else:
        click.echo(examination.as_text(findings, _style))
    sys.exit(EXIT_BAD if worst(findings) == "failure" else 0)


def _style(text: str, level: str) -> str:
    """With colours, which click leaves out where the output is no terminal."""
    return text if "NO_COLOR" in os.environ else click.style(text, fg=_COLOURS[level])
