"""The command line: each command reads its settings, calls the function that does the work, and prints.

A command is imported when it is called, and a command imports what it works with, so that `riskstream --help`
is quick and a command works without the extras of the others.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import click

from risk_producer.errors import RiskError
from risk_worker.cli.options import EXIT_UNASKED, complain, discard

COMMANDS: Final = {
    "status": "risk_worker.cli.status:status",
    "tail": "risk_worker.cli.status:tail",
    "doctor": "risk_worker.cli.doctor:doctor",
    "config": "risk_worker.cli.serve:config",
    "worker": "risk_worker.cli.serve:worker",
    "exporter": "risk_worker.cli.serve:exporter",
    "dashboard": "risk_worker.cli.serve:dashboard",
    "migrate": "risk_worker.cli.migrate:migrate",
    "grants": "risk_worker.cli.grants:grants",
    "import-original": "risk_worker.cli.original:import_original",
    "push": "risk_worker.cli.push:push",
    "verify": "risk_worker.cli.audit:verify",
    "seal": "risk_worker.cli.seal:seal",
    "timescale": "risk_worker.cli.timescale:timescale",
    "retain": "risk_worker.cli.retain:retain",
    "dead": "risk_worker.cli.dead:dead",
    "repair": "risk_worker.cli.repair:repair",
    "partitions": "risk_worker.cli.partitions:partitions",
    "traders": "risk_worker.cli.traders:traders",
    "rebind": "risk_worker.cli.rebind:rebind",
    **{
        name: f"risk_worker.cli.query:{name}"
        for name in ("state", "history", "asof", "curve", "drawdown", "pauses", "pnl", "stale", "export")
    },
    "report": "risk_worker.cli.report:report",
    "up": "risk_devkit.command:up",
    "demo": "risk_devkit.command:demo",
}
"""Name -> module and function; what the help lists, in this order."""
EXIT_PIPE: Final = 128 + signal.SIGPIPE
"""As of a program that SIGPIPE ends: the reader of the output is gone."""


class _Commands(click.Group):
    """Imports a command when it is called; turns an error for the user into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        module, function = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and end the process, with what it has printed written out: also what Python would
        write only at its own end, where an error has neither a message nor an exit status of ours."""
        try:
            with _written_out():
                return super().main(*args, **extra)
        except BrokenPipeError:
            sys.exit(EXIT_PIPE)
        except OSError as error:
            complain(error)
            sys.exit(EXIT_UNASKED)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RiskError as error:
            complain(error)
            sys.exit(EXIT_UNASKED)
        except BrokenPipeError:  # which click would make a 1
            sys.exit(EXIT_PIPE)
        except KeyboardInterrupt as error:
            sys.exit(128 + getattr(error, "signal", signal.SIGINT))


def _installed(name: str) -> bool:
    """Whether the package of a command is there: what was built without risk_devkit works without it."""
    return find_spec(COMMANDS[name].partition(".")[0]) is not None


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    """Flush stdout at the end. Raises OSError where that fails."""
    try:
        yield
    finally:
        if sys.stdout is not None:  # it is where the process began without one
            try:
                sys.stdout.flush()
            except OSError:
                discard(sys.stdout)
                raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="riskstream")
def cli() -> None:
    """Risk state of trading processes: exactly once into Postgres, through a capped Redis stream.

    Exit status: 0, all is well. 1, the command was carried out and what it found is not good. 2, it was asked
    wrongly, or Redis or Postgres could not be asked.
    """
