"""The command line: each command reads its settings, calls the function that does the work, and prints.

A command is imported when it is called, and a command imports what it works with, so that `riskstream --help`
is quick and a command works without the extras of the others.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any, Final

import click

from risk_producer.errors import RiskError
from risk_worker.cli.options import EXIT_UNASKED, complain

COMMANDS: Final = {
    "config": "risk_worker.cli.serve:config",
    "worker": "risk_worker.cli.serve:worker",
    "exporter": "risk_worker.cli.serve:exporter",
    "dashboard": "risk_worker.cli.serve:dashboard",
    "migrate": "risk_worker.cli.migrate:migrate",
    "push": "risk_worker.cli.push:push",
    "verify": "risk_worker.cli.audit:verify",
    "dead": "risk_worker.cli.dead:dead",
    "repair": "risk_worker.cli.repair:repair",
    "demo": "risk_devkit.command:demo",
}
"""Name -> module and function; what the help lists, in this order."""


class _Commands(click.Group):
    """Imports a command when it is called; turns an error for the user into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RiskError as error:
            complain(error)
            sys.exit(EXIT_UNASKED)
        except BrokenPipeError:
            # As of a program that SIGPIPE ends. What is buffered has nowhere to go either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as error:
            sys.exit(128 + getattr(error, "signal", signal.SIGINT))
        except OSError as error:
            complain(error)
            sys.exit(EXIT_UNASKED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="riskstream")
def cli() -> None:
    """Risk state of trading processes: exactly once into Postgres, through a capped Redis stream.

    Exit status: 0, all is well. 1, the command was carried out and what it found is not good. 2, it was asked
    wrongly, or Redis or Postgres could not be asked.
    """
