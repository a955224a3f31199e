"""The wheel, in a virtual environment that holds nothing but what an extra asks for."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    [wheel] = folder.glob("riskstream-*.whl")
    return wheel


def needed(name: str, extra: str) -> set[str]:
    """Names of the distributions that `name[extra]` brings along."""
    found: set[str] = set()
    todo = {(name, extra)}
    while todo:
        name, extra = todo.pop()
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                if requirement.name not in found:
                    todo |= {(requirement.name, part) for part in requirement.extras or {""}}
                found.add(requirement.name)
    return found


def install(wheel: Path, extra: str, folder: Path) -> Path:
    """A virtual environment with the wheel, and links to what this environment has of its needs."""
    venv.create(folder, with_pip=False)
    [site] = folder.glob("lib/python*/site-packages")
    for name in needed("riskstream", extra):
        for file in distribution(name).files or []:
            if file.parts[0] == "..":
                target = folder / "bin" / file.name
            else:
                target = site / file.parts[0]
                file = type(file)(file.parts[0])
            if not target.exists():
                target.symlink_to(Path(str(distribution(name).locate_file(file))).resolve())
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps"]
    subprocess.run([*command, "--quiet", str(wheel)], check=True, capture_output=True, timeout=100)
    return folder / "bin"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": os.defpath, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wheel_holds_three_packages_and_what_is_no_code_of_them(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
    assert "THIRD-PARTY.txt" in {name.name for name in names if "licenses" in name.parts}
    packages = {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")}
    assert packages == {"risk_producer", "risk_worker", "risk_devkit"}
    assert {name.parts[0] for name in names if name.name == "py.typed"} == packages
    assert Path("risk_worker/_ops/users.acl") in names
    for folder, suffix in (
        ("producer", "lua"),
        ("worker", "lua"),
        ("producer", "sql"),
        ("worker", "sql"),
        ("devkit", "sql"),
        ("db/migrations", "sql"),
    ):
        here = {path.name for path in (ROOT / folder).rglob(f"*.{suffix}")}
        assert here
        assert here <= {name.name for name in names}


def test_the_light_install_is_light(wheel: Path, tmp_path: Path) -> None:
    programs = install(wheel, "", tmp_path / "venv")
    script = "import risk_producer, sys; print(sorted({'rq', 'psycopg', 'click', 'rich'} & set(sys.modules)))"
    done = run(programs / "python", "-c", script)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    done = run(programs / "riskstream", "migrate", "up")
    assert done.returncode == 1
    hint = done.stderr.strip().removeprefix("riskstream: click is not installed; run: ")
    assert hint == f"pip --python {programs / 'python'} install 'riskstream[worker] @ {wheel.as_uri()}'"
    command = [sys.executable, "-m", *shlex.split(hint), "--dry-run", "--no-deps", "--no-index", "--force"]
    assert f"Would install {'-'.join(wheel.name.split('-')[:2])}" in run(*command).stdout
    done = run(programs / "riskstream", "--version")
    version = wheel.name.split("-")[1]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"riskstream, version {version}\n", "")


def test_the_migrations_travel_with_the_worker(wheel: Path, tmp_path: Path, empty_database_url: str) -> None:
    programs = install(wheel, "worker", tmp_path / "venv")
    done = run(programs / "riskstream", "demo")
    assert done.returncode == 1
    assert done.stderr.startswith("riskstream: psutil is not installed; run: ")
    assert done.stderr.endswith(f" install 'riskstream[embedded] @ {wheel.as_uri()}'\n")
    done = run(programs / "riskstream", "migrate", "up", POSTGRES_URL=empty_database_url)
    assert done.returncode == 0, done.stderr
    assert "Applied 20261124000001_create_risk_tables.sql" in done.stdout
    done = run(programs / "riskstream", "migrate", "status", POSTGRES_URL=empty_database_url)
    assert "Pending: 0" in done.stdout
    done = run(programs / "riskstream", "migrate", "new", "add_x")
    assert (done.returncode, "no folder /db/migrations: run this" in done.stderr) == (2, True)
