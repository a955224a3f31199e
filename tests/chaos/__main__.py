"""python -m tests.chaos --seconds 600 --seed 7"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import report, run
from tests.chaos.schedule import KINDS


def main() -> int:
    """Exit status 0: the books balance."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--rate", type=float, default=200.0, help="snapshots a second, all producers together"
    )
    parser.add_argument("--appendfsync", choices=["always", "everysec", "no"], default="always")
    parser.add_argument(
        "--kinds",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        help=f"only these faults, with commas between: {', '.join({each.name: 0 for each in KINDS})}",
    )
    parser.add_argument("--keep", action="store_true", help="keep logs, notes and data, whatever comes out")
    options = parser.parse_args()
    if unknown := set(options.kinds) - {each.name for each in KINDS}:
        parser.error(f"there are no faults of the kind {', '.join(sorted(unknown))}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # so that nothing is left running
    folder = Path(tempfile.mkdtemp(prefix="riskstream-chaos-"))
    print(f"seed {options.seed}; logs and data in {folder}", flush=True)
    result = run(
        folder,
        seed=options.seed,
        seconds=options.seconds,
        rate=options.rate,
        appendfsync=options.appendfsync,
        kinds=options.kinds,
        say=lambda line: print(line, flush=True),
    )
    print(report(result), flush=True)
    if not result.wrong and not options.keep:
        shutil.rmtree(folder)
    return 1 if result.wrong else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
