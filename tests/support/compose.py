"""docker-compose.yml as Docker Compose reads it: with the variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")


def compose(values: Mapping[str, str]) -> dict[str, Any]:
    """The file with these values; what is not among them has its default, or is empty."""

    def value_of(match: re.Match[str]) -> str:
        rest = match[2] or ""
        return values.get(match[1], rest[2:] if rest.startswith(":-") else "")

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(each) for name, each in part.items()}
        if isinstance(part, list):
            return [filled(each) for each in part]
        return VARIABLE.sub(value_of, part).replace("$$", "$") if isinstance(part, str) else part

    whole: dict[str, Any] = filled(yaml.safe_load(FILE.read_text()))
    return whole
