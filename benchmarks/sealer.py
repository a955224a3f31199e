"""A sealer on command: python -m benchmarks.sealer.

It hears how many rows there are, and seals them all.
"""

from __future__ import annotations

from benchmarks.process import serve
from risk_producer.settings import Settings
from risk_worker.seal.sealer import WINDOWS, Sealer


def main() -> None:
    """Obey until stdin ends."""
    with Sealer(Settings.load().require_database_url(), WINDOWS["1h"]) as sealer:
        serve(lambda _rows: sum(run.rows for run in sealer.seal()))


if __name__ == "__main__":
    main()
