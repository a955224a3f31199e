"""Tables in a page, each between two comments, made of the figures in a file of JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Blocks = Mapping[str, Callable[[Mapping[str, Any]], str]]
"""Name of a block in the page -> what makes it of the figures."""


def rendered(page: str, file: str, blocks: Blocks, figures: Mapping[str, Any]) -> str:
    """The page with the blocks of these figures. Raises KeyError for a block that does not exist."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{blocks[match[2]](figures)}\n{match[3]}"

    pattern = re.compile(rf"(<!-- {re.escape(file)}: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(block, page)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def spread(values: Sequence[float]) -> str:
    """Median, and the range of the runs."""
    middle, least, most = median(values), min(values), max(values)
    if len(set(map(number, values))) == 1:
        return number(middle)
    return f"{number(middle)} ({number(least)} to {number(most)})"


def number(value: float) -> str:
    """With as many digits as mean something."""
    return f"{rounded(value):,}" if value >= 999.5 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def rounded(value: float) -> int:
    """To three digits."""
    return round(float(f"{value:.3g}"))
