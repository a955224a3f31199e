"""python -m tests.soak --seconds 1800 --rate 1000 --traders 50 --workers 3 --partitions 4 --kill-every 20"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.run import report, run


def main() -> int:
    """Exit status 0: the books balance, and nothing grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="snapshots a second in all")
    parser.add_argument("--traders", type=int, default=50)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--keep", action="store_true", help="keep logs, notes and data, whatever comes out")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # so that nothing is left running
    folder = Path(tempfile.mkdtemp(prefix="riskstream-soak-"))
    samples = folder / "samples.jsonl"
    print(f"logs and data in {folder}, samples in {samples}", flush=True)
    with samples.open("w") as record:
        soaked = run(
            folder,
            seconds=options.seconds,
            rate=options.rate,
            traders=options.traders,
            workers=options.workers,
            partitions=options.partitions,
            kill_every_s=options.kill_every,
            say=lambda line: print(line, flush=True),
            record=record,
        )
    print(report(soaked), flush=True)
    if not soaked.wrong and not options.keep:
        shutil.rmtree(folder)
    return 1 if soaked.wrong else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
