"""riskstream beside its peers: `make peers`, or

    python -m benchmarks.peers [--only rates|kill|cut] [--rows N] [--runs N] [--batch N] [--page]

The same rows, Redis, Postgres, tables and size of a batch for all, in turns: how quickly each stores what
waits for it, and what it has left after its workers were killed, or cut off from Postgres.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import machine, page
from benchmarks.blocks import number
from benchmarks.copies import copy_rate, executemany_rate
from benchmarks.peers.catalogue import catalogue
from benchmarks.peers.peer import Peer
from benchmarks.peers.trial import FAULTS, rate, survived
from benchmarks.rows import copy_text, payloads
from benchmarks.servers import Servers

_SPARE = 1_000
"""Rows more than those of a run, for who waits for something to come."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Measure riskstream beside its peers."
    )
    parser.add_argument(
        "--only", choices=("rates", *FAULTS), help="one part of three (default: all, 9 minutes)"
    )
    parser.add_argument("--rows", type=int, default=200_000, help="of the quickest; slow ones get a share")
    parser.add_argument("--runs", type=int, default=3, help="of the rates (default 3)")
    parser.add_argument("--batch", type=int, default=5_000, help="rows of a transaction (default 5,000)")
    page.add_option(parser)
    arguments = parser.parse_args()
    rows = payloads(arguments.rows + 1 + _SPARE)
    for part in (arguments.only,) if arguments.only else ("rates", *FAULTS):
        with Servers() as servers:
            peers = catalogue(servers.valkey.url)
            found = (
                _rates(servers, peers, rows[:-_SPARE], arguments.runs, arguments.batch)
                if part == "rates"
                else _survived(servers, peers, rows, arguments.batch, part)
            )
            about = machine.described(servers)
        about["Size"] = (
            f"batches of {arguments.batch:,}, {arguments.runs} runs of up to {arguments.rows:,} rows"
        )
        page.show(f"peers_{part}", {"about": about, **found}, keep=arguments.page)


def _rates(
    servers: Servers, peers: Sequence[Peer], rows: Sequence[bytes], runs: int, batch: int
) -> dict[str, Any]:
    """Everything in turns."""
    text = copy_text(rows)
    ways: dict[str, dict[str, list[float]]] = {}
    for _ in range(runs):
        for name, measured in _one_run(servers, peers, rows, text, batch):
            for measure, value in measured.items():
                ways.setdefault(name, {}).setdefault(measure, []).append(value)
            _say(name, ", ".join(f"{measure} {number(value)}" for measure, value in measured.items()))
    return {"batch": batch, "ways": ways, "promises": {peer.name: asdict(peer.promise) for peer in peers}}


def _one_run(
    servers: Servers, peers: Sequence[Peer], rows: Sequence[bytes], text: bytes, batch: int
) -> Iterator[tuple[str, dict[str, float]]]:
    yield "COPY", {"rows_per_s": copy_rate(servers, text)}
    for peer in peers:
        done = rate(servers, peer, _share(peer, rows), batch)
        yield (
            peer.name,
            {
                "rows_per_s": done.rows_per_s,
                "us_all": done.cpu.all,
                "us_worker": done.cpu.worker,
            },
        )
    few = rows[: len(rows) // 4]
    yield "psycopg's executemany(), no queue", {"rows_per_s": executemany_rate(servers, few, batch)}


def _survived(
    servers: Servers, peers: Sequence[Peer], rows: Sequence[bytes], batch: int, part: str
) -> dict[str, Any]:
    """Each once."""
    ways = {}
    for peer in peers:
        mine, spare = _share(peer, rows[:-_SPARE]), rows[-_SPARE:]
        ways[peer.name] = asdict(survived(servers, peer, mine, spare, batch, FAULTS[part]))
        _say(peer.name, f"{part}: {ways[peer.name]}")
    return {"batch": batch, "ways": ways}


def _share(peer: Peer, rows: Sequence[bytes]) -> Sequence[bytes]:
    """Its part of them, and the first, which connects it."""
    return rows[: 1 + int(peer.share * (len(rows) - 1))]


def _say(name: str, what: str) -> None:
    print(f"{name}: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
