"""python -m tests.chaos --engine single --seconds 600 --seed 7"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.chaos.engine import Engine
from tests.chaos.engines import hosts
from tests.chaos.engines.cluster import Cluster
from tests.chaos.engines.hosts import Hosts
from tests.chaos.engines.sentinel import Sentinel
from tests.chaos.engines.single import Single
from tests.chaos.run import report, run
from tests.support.long_run import long_run, parser, show

ENGINES: Final[dict[str, type[Engine]]] = {each.name: each for each in (Single, Cluster, Sentinel, Hosts)}


def names_of(engine: type[Engine]) -> list[str]:
    """The names of its kinds of faults, each once."""
    return list({each.name: 0 for each in engine.kinds})


def main() -> int:
    """Exit status 0: what was accepted is reconciled with what is stored."""
    wanted = parser("chaos", __doc__)
    wanted.add_argument("--engine", choices=list(ENGINES), default="single")
    wanted.add_argument("--seconds", type=float, default=60.0)
    wanted.add_argument("--seed", type=int, default=7)
    wanted.add_argument(
        "--rate", type=float, default=200.0, help="snapshots a second, all producers together"
    )
    wanted.add_argument(
        "--appendfsync", choices=["always", "everysec", "no"], default="always", help="of the engine single"
    )
    wanted.add_argument("--in-turn", action="store_true", help="a fault begins when the one before is over")
    wanted.add_argument("--desks", type=int, default=0, help="namespaces, served by the same workers")
    wanted.add_argument(
        "--kinds",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        help="only these faults, with commas between. "
        + ". ".join(f"{name}: {', '.join(names_of(engine))}" for name, engine in ENGINES.items()),
    )
    options = wanted.parse_args()
    kind = ENGINES[options.engine]
    if unknown := set(options.kinds) - set(names_of(kind)):
        wanted.error(f"there are no faults of the kind {', '.join(sorted(unknown))}")
    if options.desks and options.engine != "single":
        wanted.error("--desks is for the engine single")
    if options.engine == "hosts" and (reason := hosts.missing()):
        wanted.error(reason)
    engine = Single(appendfsync=options.appendfsync) if kind is Single else kind()

    def play(folder: Path) -> tuple[str, bool]:
        show(f"seed {options.seed}")
        result = run(
            folder,
            engine,
            seed=options.seed,
            seconds=options.seconds,
            rate=options.rate,
            kinds=options.kinds,
            in_turn=options.in_turn,
            desks=options.desks,
            say=show,
        )
        return report(result), bool(result.wrong)

    return long_run("chaos", play, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
