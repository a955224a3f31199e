"""The trader's part alone: an environment with the requirements of `pip install .`, and none of an extra."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def wanted(name: str) -> Iterator[metadata.Distribution]:
    """A distribution and what it requires without an extra of its own, as they are installed here."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # only for another Python or system
    yield found
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            yield from wanted(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with these alone; nothing is fetched."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "riskstream.pth").write_text("".join(f"{ROOT / each}\n" for each in ("producer", "worker")))
    for distribution in [*wanted("riskstream"), *wanted("hiredis")]:
        for file in distribution.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth") or (packages / top).exists():
                continue
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )


def test_it_is_light(light: Path) -> None:
    for module in ("click", "rq", "psycopg", "rich", "flask"):
        assert run(light, "-c", f"import {module}").returncode == 1
    assert run(light, "-c", "import risk_producer; risk_producer.RiskProducer").stderr == ""


def test_the_version_is_printed(light: Path) -> None:
    done = run(light, "-m", "risk_worker", "--version")
    here = run(Path(sys.executable), "-m", "risk_worker", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, here.stdout, "")
    assert re.fullmatch(r"riskstream, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["verify"], ["--version", "--help"]])
def test_a_command_says_what_to_install(light: Path, arguments: list[str]) -> None:
    done = run(light, "-m", "risk_worker", *arguments)
    assert done.returncode == 1
    assert re.fullmatch(r"riskstream: click is not installed; run: .+ install .+\[worker\]\S*\n", done.stderr)
