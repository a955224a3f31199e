"""pip installs what a lock file names: another file, another version and what is not named are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from locks import lock

pytestmark = pytest.mark.system


def wheel(folder: Path, name: str, version: str, *, needs: str = "") -> Path:
    """A wheel of one's own under the name of another."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "print('foreign')\n")
        required = f"Requires-Dist: {needs}\n" if needs else ""
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def install(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What pip does with a lock file, offered the wheels of the folder alone."""
    target = folder / "venv"
    if not target.exists():
        venv.create(target, with_pip=False)
    requirements = folder / "lock.txt"
    requirements.write_text(text)
    command: list[str | Path] = [
        *(sys.executable, "-m", "pip", "--isolated", "--python", target / "bin" / "python", "install"),
        *("--no-index", "--find-links", folder, "--require-hashes", "--requirement", requirements),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def locked(name: str) -> str:
    version, digests = lock.read("build")[name]
    return " ".join([f"{name}=={version}", *(f"--hash=sha256:{each}" for each in digests)]) + "\n"


def test_another_file_of_the_same_name_and_version(tmp_path: Path) -> None:
    wheel(tmp_path, "pluggy", lock.read("build")["pluggy"][0])
    done = install(tmp_path, locked("pluggy"))
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert list(tmp_path.glob("venv/lib/python*/site-packages/pluggy*")) == []


def test_another_version(tmp_path: Path) -> None:
    wheel(tmp_path, "pluggy", "999")
    done = install(tmp_path, locked("pluggy"))
    assert done.returncode != 0
    assert "No matching distribution" in done.stderr


def test_what_is_needed_and_not_named(tmp_path: Path) -> None:
    made = wheel(tmp_path, "one", "1", needs="other")
    wheel(tmp_path, "other", "1")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    done = install(tmp_path, f"one==1 --hash=sha256:{digest}\n")
    assert done.returncode != 0
    assert "all requirements must have their versions pinned" in done.stderr.replace("\n", " ")


def test_the_file_that_is_named(tmp_path: Path) -> None:
    digest = hashlib.sha256(wheel(tmp_path, "one", "1").read_bytes()).hexdigest()
    done = install(tmp_path, f"one==1 --hash=sha256:{digest}\n")
    assert done.returncode == 0, done.stderr
