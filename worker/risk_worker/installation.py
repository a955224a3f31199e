"""How riskstream is installed here, so that what a message tells to run works as it is printed."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION: Final = "riskstream"


def version() -> str:
    """Of the distribution; "unknown" where it is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def command(name: str = "riskstream") -> str:
    """How a shell in this folder calls a program of this installation: by its name where PATH leads to it,
    else by its path."""
    beside = Path(sys.executable).parent / name
    if not beside.exists():
        return f"{shlex.quote(shown(Path(sys.executable)))} -m risk_worker"
    found = shutil.which(name)
    if found is not None and os.path.samefile(found, beside):
        return name
    return shlex.quote(shown(beside))


def to_install(extra: str) -> str:
    """The command that adds an extra to this installation, from where it was installed."""
    if importlib.util.find_spec("pip") is None:  # one that is installed elsewhere can do it
        pip = f"pip --python {shlex.quote(sys.executable)}"
    else:
        pip = f"{shlex.quote(shown(Path(sys.executable)))} -m pip"
    return f"{pip} install {_requirement(extra)}"


def shown(path: Path) -> str:
    """Relative to the current folder, where it is in it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _requirement(extra: str) -> str:
    """pip's words for riskstream with an extra, by the record of where it came from (PEP 610)."""
    named = f"{DISTRIBUTION}[{extra}]"
    try:
        origin: Any = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
        url = str(origin.get("url", ""))
        editable = bool(origin.get("dir_info", {}).get("editable"))
        vcs = origin.get("vcs_info", {})
        source = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
    except (metadata.PackageNotFoundError, ValueError, AttributeError, TypeError, KeyError):
        source, url, editable = "", "", False
    if editable:
        return f"-e {shlex.quote(url2pathname(urlsplit(url).path) + f'[{extra}]')}"
    return shlex.quote(f"{named} @ {source}" if source else named)
