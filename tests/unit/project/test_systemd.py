"""The units of ops/systemd fit the program. They are read, by systemd-analyze too where it is; not run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from risk_producer.settings import Settings
from tests.support.deploy import ROOT, command_exists, make_secrets

UNITS = sorted((ROOT / "ops/systemd").glob("*.service"))
PROGRAM = "/opt/riskstream/bin/riskstream"
CREDENTIALS = "/etc/riskstream/secrets/"
DASHBOARD = {"RQ_DASHBOARD_USERNAME", "RQ_DASHBOARD_PASSWORD_FILE"}
EACH = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)


def section(unit: Path, name: str) -> dict[str, list[str]]:
    """Key -> its values, of a section of a unit."""
    text = unit.read_text().partition(f"[{name}]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def environment(unit: Path, credentials: Path) -> dict[str, str]:
    """What the program gets, of the file for all units and the unit's own; instance 1 of a template."""
    shared = (ROOT / "ops/systemd/environment").read_text().splitlines()
    lines = [line for line in shared if line and not line.startswith("#")]
    lines += " ".join(section(unit, "Service")["Environment"]).split()
    return {
        name: value.replace("%d", str(credentials)).replace("%i", "1")
        for name, _, value in (line.partition("=") for line in lines)
    }


def test_the_units_are_there() -> None:
    assert [unit.name for unit in UNITS] == [
        *("riskstream-dashboard.service", "riskstream-exporter.service"),
        *("riskstream-migrate.service", "riskstream-worker@.service"),
    ]


@EACH
def test_its_commands_exist(unit: Path) -> None:
    commands = section(unit, "Service")["ExecStart"]
    assert commands
    for command in commands:
        program, *words = command.split()
        assert program == PROGRAM
        assert command_exists(words)


@EACH
def test_its_secrets_are_files_and_its_settings_load(unit: Path, tmp_path: Path) -> None:
    loaded = dict(each.split(":") for each in section(unit, "Service")["LoadCredential"])
    make_secrets(tmp_path, {})
    assert {path.removeprefix(CREDENTIALS) for path in loaded.values()} == loaded.keys()
    assert loaded.keys() <= {path.name for path in tmp_path.iterdir()}
    environ = environment(unit, tmp_path)
    named = {value.removeprefix(f"{tmp_path}/") for name, value in environ.items() if name.endswith("_FILE")}
    assert named == loaded.keys()
    assert not [name for name in environ if re.search(r"PASSWORD$|URL$", name)]
    assert environ.keys() <= Settings.variables() | (DASHBOARD if "dashboard" in unit.name else set())
    settings = Settings.load(environ)
    if "dashboard" not in unit.name:
        users = {"migrate": "risk_migrate", "exporter": "risk_monitor", "worker@": "risk_worker"}
        assert f"//{users[unit.stem.removeprefix('riskstream-')]}:" in settings.require_database_url()
    for user in ("worker", "exporter", "dashboard"):
        if f"{user}_url" in loaded:
            assert user in unit.name
            assert settings.require_redis_url() == (tmp_path / f"{user}_url").read_text()


def test_what_a_unit_sets_is_not_in_the_file_for_all() -> None:
    """There it would take precedence: systemd reads the file last."""
    shared = {line.partition("=")[0] for line in (ROOT / "ops/systemd/environment").read_text().splitlines()}
    for unit in UNITS:
        own = " ".join(section(unit, "Service")["Environment"]).split()
        assert not shared & {each.partition("=")[0] for each in own}


@EACH
def test_it_is_bounded_and_started_again(unit: Path) -> None:
    service = section(unit, "Service")
    assert service["MemoryMax"] == ["512M"]
    if service["Type"] != ["oneshot"]:
        assert service["Restart"] == ["always"]
        assert section(unit, "Unit")["StartLimitIntervalSec"] == ["0"]
    if "worker" in unit.name:
        assert float(service["TimeoutStopSec"][0]) > Settings().drain_timeout_s


HARDENING = section(UNITS[0], "Service").keys() & {
    line.partition("=")[0] for line in UNITS[0].read_text().partition("DynamicUser")[2].splitlines()
}


@EACH
def test_all_are_hardened_alike(unit: Path) -> None:
    assert len(HARDENING) > 15
    service, first = section(unit, "Service"), section(UNITS[0], "Service")
    assert {key: service[key] for key in HARDENING} == {key: first[key] for key in HARDENING}
    assert service["DynamicUser"] == ["yes"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The units with a program that there is on this machine."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        (folder / unit.name).write_text(unit.read_text().replace(PROGRAM, str(shutil.which("true"))))
    return sorted(folder.iterdir())


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this machine")
def test_systemd_finds_nothing_wrong(here: list[Path]) -> None:
    done = analyze("verify", *map(str, here))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this machine")
def test_systemd_finds_little_that_is_exposed(here: list[Path]) -> None:
    """Of 10; 1.2 where it was written. The network is most of it."""
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", *map(str, here))
    if "Unknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze looks at units of a running system only")
    assert done.returncode == 0, done.stdout[-2000:]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, timeout=60, check=False)
