"""`make bench`, or: python -m benchmarks [--quick] [--large] [--rows N] [--runs N] [--json | --markdown]"""

from __future__ import annotations

import argparse

from benchmarks import machine, page, report, suite
from benchmarks.servers import Servers
from benchmarks.suite import Size


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure against the yardsticks."
    )
    parser.add_argument("--rows", type=int, help="snapshots of each run (default 200,000)")
    parser.add_argument("--runs", type=int, help="runs of each measure (default 5)")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, 2 runs, unless they are given")
    parser.add_argument(
        "--large", action="store_true", help="also drain into a history of 10 million rows: minutes, 6 GB"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="medians and ratios as JSON")
    form.add_argument("--markdown", action="store_true", help="tables, with machine and versions")
    page.add_option(parser)
    arguments = parser.parse_args()
    usual = Size(20_000, 2, 3) if arguments.quick else Size(200_000, 5, 15)
    size = Size(arguments.rows or usual.rows, arguments.runs or usual.runs, usual.seconds)
    if size.rows < 1_000 or size.runs < 1:
        parser.error("--rows from 1,000 on, --runs from 1 on")
    with Servers() as servers:
        samples = suite.measure(servers, size)
        if arguments.large:
            suite.measure_history(samples, servers, size)
        described = machine.described(servers)
    described["Size"] = f"{size.rows:,} snapshots of 200 traders, {size.runs} runs"
    if arguments.page:
        page.show("bench", {"about": described, "values": samples.values}, keep=True)
    elif arguments.json:
        print(report.as_json(samples))
    elif arguments.markdown:
        print(report.as_markdown(samples, described))
    else:
        report.show(samples)


if __name__ == "__main__":
    main()
