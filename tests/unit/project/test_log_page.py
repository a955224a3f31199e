"""docs/operate/logs.md names lines that the code writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operate" / "logs.md").read_text()
ROWS = re.findall(r"^\| (?:info|warning|error|critical) \| `([^`]+)`", PAGE, re.M)
CODE = "\n".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # a text over several lines
    for folder in ("producer", "worker")
    for path in (ROOT / folder).rglob("*.py")
)


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("line", ROWS)
def test_the_code_has_the_line(line: str) -> None:
    if line.startswith("riskstream 0.1.0"):
        line = ", process {os.getpid()} on "
    if not line.startswith("Worker …"):  # RQ's
        assert line in CODE
