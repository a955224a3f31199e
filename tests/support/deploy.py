"""What the files of a deployment say, as the program understands it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from risk_worker.cli import cli

ROOT = Path(__file__).parents[2]


def command_exists(words: Sequence[str]) -> bool:
    """Whether click would find the command and take the options. Raises UsageError where it takes one not."""
    context: click.Context = cli.make_context("riskstream", list(words), resilient_parsing=True)
    command: click.Command = cli
    words = list(words)
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break  # it has a meaning of its own
        found = command.get_command(context, words[0]) if words else None
        if found is None:
            return False
        command, words = found, words[1:]
    with command.make_context(command.name, words, parent=context):
        return True


def make_secrets(
    folder: Path, passwords: Mapping[str, str], env: Path = Path(os.devnull)
) -> subprocess.CompletedProcess[str]:
    """ops/make-secrets, with passwords that are in use already, and `env` as .env."""
    return subprocess.run(
        [ROOT / "ops/make-secrets", folder, env],
        env={"PATH": os.environ["PATH"], **passwords},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
