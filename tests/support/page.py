"""The commands of a page, and running them as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from risk_devkit.embedded import program

DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """A page of docs."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text()

    def section(self, heading: str) -> str:
        """What stands between a heading and the next one, of whatever depth."""
        [text] = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", self.text, re.M | re.S)
        return str(text)

    def blocks(self, heading: str) -> list[str]:
        """The ```sh blocks of a section."""
        return re.findall(r"^```sh\n(.*?)^```", self.section(heading), re.M | re.S)

    @property
    def lines(self) -> list[str]:
        """The commands in blocks without a language, without what is said about them."""
        return [
            re.split(r" {3,}", line.strip())[0] for line in re.findall(r"^ {4,}(\S.*)$", self._plain, re.M)
        ]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all tables, without headings."""
        return self.cells(self._plain)

    @staticmethod
    def cells(text: str) -> list[list[str]]:
        """Of the tables in a text. A | in a cell is written \\|."""
        found = [
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in text.splitlines()
            if line.startswith("|")
        ]
        rules = {number for number, cells in enumerate(found) if set("".join(cells)) <= set("-")}
        return [cells for number, cells in enumerate(found) if not {number, number + 1} & rules]

    @property
    def _plain(self) -> str:
        return re.sub(r"^```.*?^```", "", self.text, flags=re.M | re.S)


def run(
    commands: str, environ: Mapping[str, str], folder: Path, postgres: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """By bash, which ends with the first command that fails, in a folder.

    postgres: where psql and pg_dump are; None: those of the embedded Postgres.
    """
    places = [str(Path(sys.executable).parent), str(postgres or program("psql").parent), os.environ["PATH"]]
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env={"PATH": os.pathsep.join(places), "LC_ALL": "C.UTF-8", "HOME": str(folder), **environ},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
