"""Which distributions a part of riskstream needs, on any Python and platform that it runs on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
CONSTRAINTS: Final = ROOT / "constraints.txt"
_PYTHONS: Final = ("3.11.0", "3.11.3", "3.12.0", "3.13.0", "3.14.0")
_PLATFORMS: Final = (("linux", "Linux"), ("darwin", "Darwin"))
_MACHINES: Final = ("x86_64", "aarch64", "arm64")


def pins() -> dict[str, str]:
    """distribution -> version, as constraints.txt has it."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def wanted(name: str) -> list[str]:
    """What pyproject.toml asks for, for a lock file of this name."""
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        return list(described["build-system"]["requires"])
    project = described["project"]
    asked = list(project["dependencies"])
    todo = [name]
    for extra in todo:  # which grows meanwhile
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                todo += sorted(requirement.extras)
            else:
                asked.append(text)
    return asked


def closure(asked: Sequence[str], requirements: Mapping[str, Sequence[str]]) -> set[str]:
    """The names of all that is needed, and what that needs.

    requirements: distribution -> what it needs; one that is missing there needs nothing.
    """
    found: set[tuple[str, str]] = set()
    todo = [(text, "") for text in asked]
    while todo:
        text, extra = todo.pop()
        requirement = Requirement(text)
        if not any(_holds(requirement, extra, environment) for environment in _ENVIRONMENTS):
            continue
        name = canonicalize_name(requirement.name)
        new = {(name, part) for part in ("", *requirement.extras)} - found
        found |= new
        todo += [(each, part) for _, part in new for each in requirements.get(name, ())]
    return {name for name, _ in found}


def _holds(requirement: Requirement, extra: str, environment: Mapping[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra})


_ENVIRONMENTS: Final = [
    {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in _PYTHONS
    for sys_platform, system in _PLATFORMS
    for machine in _MACHINES
]
"""For the markers of requirements: every Python and platform that a lock file is for."""
