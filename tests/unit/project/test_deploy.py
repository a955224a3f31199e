"""The deployment files say what the program understands. They are parsed, not run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from risk_producer.settings import Settings
from risk_worker.cli import cli

ROOT = Path(__file__).parents[3]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("riskstream:")}
SETTINGS = {meta["env"]: meta for meta in Settings.declared().values()}
DASHBOARD_ENV = {"RQ_DASHBOARD_USERNAME", "RQ_DASHBOARD_PASSWORD"}

PINNED = re.compile(r"^[\w./-]+:\d+\.\d+\.\d+[\w.-]*$")
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")


def _command_exists(words: list[str]) -> bool:
    """Whether click would find the command and take the options."""
    context: click.Context = cli.make_context("riskstream", list(words), resilient_parsing=True)
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0]) if words else None
        if found is None:
            return False
        command, words = found, words[1:]
    command.make_context(command.name, list(words), parent=context)
    return True


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _dockerfile() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in lines]


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_to_a_full_version(name: str) -> None:
    assert PINNED.match(SERVICES[name]["image"])


def test_own_image_has_the_version_of_the_package() -> None:
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert {service["image"] for service in OWN.values()} == {f"riskstream:{version}"}


def test_every_variable_is_explained_in_the_example() -> None:
    used = {name for name, _ in VARIABLE.findall(COMPOSE_TEXT)}
    assert used == set(_example())


def test_what_has_no_default_is_asked_for_and_empty_in_the_example() -> None:
    asked = {name for name, rest in VARIABLE.findall(COMPOSE_TEXT) if rest.startswith(":?")}
    assert asked == {"DB_PASSWORD", "REDIS_PASSWORD"}
    assert all(_example()[name] == "" for name in asked)
    without_rest = {name for name, rest in VARIABLE.findall(COMPOSE_TEXT) if not rest}
    assert not without_rest, "an unset variable must have a default or stop docker compose"


def test_defaults_in_the_example_are_those_of_the_file() -> None:
    defaults = {name: rest[2:] for name, rest in VARIABLE.findall(COMPOSE_TEXT) if rest.startswith(":-")}
    assert defaults == {name: value for name, value in _example().items() if name in defaults}


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|AUTH|SECRET|TOKEN", key) or SETTINGS.get(key, {}).get("secret"):
            assert VARIABLE.search(value), key
            assert not re.search(r"://[^$]*:[^$@]+@", value), key


def test_no_password_stands_in_a_command() -> None:
    for service in SERVICES.values():
        assert "PASSWORD" not in str(service.get("command", ""))
        assert "PASSWORD" not in str(service.get("healthcheck", ""))


@pytest.mark.parametrize("name", OWN)
def test_every_setting_is_known(name: str) -> None:
    allowed = set(SETTINGS) | (DASHBOARD_ENV if name == "dashboard" else set())
    assert set(OWN[name].get("environment", {})) <= allowed


@pytest.mark.parametrize("name", OWN)
def test_the_settings_in_the_file_load(name: str) -> None:
    values = {"DB_PASSWORD": "p@ss:w/rd", "REDIS_PASSWORD": "0123abcd"}

    def value_of(match: re.Match[str]) -> str:
        rest = match[2] or ""
        return values.get(match[1], rest[2:] if rest.startswith(":-") else "")

    environ = {key: VARIABLE.sub(value_of, value) for key, value in OWN[name].get("environment", {}).items()}
    settings = Settings.load(environ)
    if name == "migrate":
        assert settings.require_database_url().startswith(
            "postgresql://riskstream:p%40ss%3Aw%2Frd@postgres:5432/risk"
        )
    else:
        assert settings.require_redis_url() == "redis://:0123abcd@redis:6379/0"


@pytest.mark.parametrize("name", OWN)
def test_commands_exist(name: str) -> None:
    assert _command_exists(OWN[name]["command"])


def test_a_command_that_does_not_exist_is_found_out() -> None:
    assert not _command_exists(["wrker"])
    assert not _command_exists(["migrate", "upp"])
    with pytest.raises(click.UsageError):
        _command_exists(["exporter", "--prt", "1"])


@pytest.mark.parametrize("name", SERVICES)
def test_conditions_can_be_met(name: str) -> None:
    for other, depends in SERVICES[name].get("depends_on", {}).items():
        if depends["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert depends["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_every_service_that_stays_is_started_again() -> None:
    assert {name for name, s in SERVICES.items() if s["restart"] != "unless-stopped"} == {"migrate"}


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_is_reached_waits_until_it_is_healthy(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    depends = SERVICES[name].get("depends_on", {})
    if "REDIS_URL" in environment:
        assert depends["redis"]["condition"] == "service_healthy"
    if "DB_HOST" in environment:
        assert depends["postgres"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_a_listening_command_listens_where_its_port_is_published_and_checked() -> None:
    for name in ("exporter", "dashboard"):
        service = SERVICES[name]
        options = dict(zip(service["command"][1::2], service["command"][2::2], strict=True))
        [published] = service["ports"]
        assert options["--host"] == "0.0.0.0"
        assert published.endswith(f":{options['--port']}")
        assert options["--port"] in service["healthcheck"]["test"][-1]


def test_the_worker_has_time_to_finish_its_batch() -> None:
    grace = SERVICES["worker"]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > Settings().drain_timeout_s


def test_volumes_are_named_and_used() -> None:
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_redis_keeps_what_it_accepted() -> None:
    content = COMPOSE["configs"]["redis"]["content"]
    for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert line in content.splitlines()
    [config] = SERVICES["redis"]["configs"]
    assert config["source"] == "redis"
    assert SERVICES["redis"]["command"] == ["redis-server", config["target"]]


def test_dockerfile_ends_as_an_ordinary_user_in_exec_form() -> None:
    steps = _dockerfile()
    last = dict(steps)
    assert last["USER"] not in ("root", "0")
    assert max(i for i, (word, _) in enumerate(steps) if word == "USER") > max(
        i for i, (word, _) in enumerate(steps) if word in ("RUN", "COPY")
    )
    entrypoint, command = yaml.safe_load(last["ENTRYPOINT"]), yaml.safe_load(last["CMD"])
    assert entrypoint == ["riskstream"]
    assert _command_exists(command)


def test_dockerfile_pins_its_base_and_knows_no_secret() -> None:
    steps = _dockerfile()
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert len(set(bases)) == 1
    assert PINNED.match(bases[0])
    assert not [rest for word, rest in steps if word == "ARG"]
    assert not [rest for word, rest in steps if word == "ENV" and re.search(r"PASSWORD|_URL", rest)]


def test_the_builder_gets_what_the_wheel_needs_and_nothing_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "producer", "worker", "db"}
    assert all((ROOT / name).exists() for name in let_in)


def test_procfile_commands_exist() -> None:
    entries = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(entries) == {"release", "worker", "exporter", "dashboard"}
    for command in entries.values():
        program, *words = shlex.split(command)
        assert program == "riskstream"
        assert _command_exists(words)
