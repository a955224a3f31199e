"""python -m tests.soak --seconds 1800 --rate 1000 --traders 50 --workers 3 --partitions 4 --kill-every 20"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.soak.run import report, run
from tests.support.long_run import long_run, parser, show


def main() -> int:
    """Exit status 0: what was accepted is reconciled with what is stored, and nothing grew."""
    wanted = parser("soak", __doc__)
    wanted.add_argument("--seconds", type=float, default=1800.0)
    wanted.add_argument("--rate", type=float, default=1000.0, help="snapshots a second in all")
    wanted.add_argument("--traders", type=int, default=50)
    wanted.add_argument("--workers", type=int, default=3)
    wanted.add_argument("--partitions", type=int, default=4)
    wanted.add_argument("--kill-every", type=float, default=20.0, help="seconds between two kills")
    options = wanted.parse_args()

    def play(folder: Path) -> tuple[str, bool]:
        samples = folder / "samples.jsonl"
        show(f"samples in {samples}")
        with samples.open("w") as record:
            soaked = run(
                folder,
                seconds=options.seconds,
                rate=options.rate,
                traders=options.traders,
                workers=options.workers,
                partitions=options.partitions,
                kill_every_s=options.kill_every,
                say=show,
                record=record,
            )
        return report(soaked), bool(soaked.wrong)

    return long_run("soak", play, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
