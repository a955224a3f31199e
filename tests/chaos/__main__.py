"""python -m tests.chaos --seconds 600 --seed 7"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.run import report, run
from tests.chaos.schedule import KINDS
from tests.support.long_run import long_run, parser, show


def main() -> int:
    """Exit status 0: what was accepted is reconciled with what is stored."""
    wanted = parser("chaos", __doc__)
    wanted.add_argument("--seconds", type=float, default=60.0)
    wanted.add_argument("--seed", type=int, default=7)
    wanted.add_argument(
        "--rate", type=float, default=200.0, help="snapshots a second, all producers together"
    )
    wanted.add_argument("--appendfsync", choices=["always", "everysec", "no"], default="always")
    wanted.add_argument(
        "--kinds",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        help=f"only these faults, with commas between: {', '.join({each.name: 0 for each in KINDS})}",
    )
    options = wanted.parse_args()
    if unknown := set(options.kinds) - {each.name for each in KINDS}:
        wanted.error(f"there are no faults of the kind {', '.join(sorted(unknown))}")

    def play(folder: Path) -> tuple[str, bool]:
        show(f"seed {options.seed}")
        result = run(
            folder,
            seed=options.seed,
            seconds=options.seconds,
            rate=options.rate,
            appendfsync=options.appendfsync,
            kinds=options.kinds,
            say=show,
        )
        return report(result), bool(result.wrong)

    return long_run("chaos", play, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
