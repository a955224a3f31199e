"""A secret may stand in a file: NAME_FILE names it. No message shows what is in it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from risk_producer.errors import ConfigurationError
from risk_producer.settings import CONFIG_FILE, Settings, misspelt
from risk_producer.settings.secret_file import BYTES_MAX
from risk_worker.cli import cli
from risk_worker.doctor.of_settings import readable
from risk_worker.runtime import dashboard

SECRETS = {
    "REDIS_URL": "redis://:hush@h:1/0",
    "RQ_REDIS_URL": "redis://:hush@h:1/1",
    "POSTGRES_URL": "postgresql://u:hush@h/d",
    "DB_PASSWORD": "hush",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def test_each_secret_has_one() -> None:
    secret = {meta["env"] for meta in Settings.declared().values() if meta["secret"]}
    assert secret == set(SECRETS)
    assert Settings.variables() == {meta["env"] for meta in Settings.declared().values()} | {
        f"{name}_FILE" for name in secret
    }
    assert misspelt(dict.fromkeys(Settings.variables(), "x")) == {}
    assert misspelt({"DB_PASSWORD_FIL": "x"}) == {"DB_PASSWORD_FIL": "DB_PASSWORD_FILE"}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_value_is_its_text_without_the_newline_at_its_end(name: str, end: str, file: Path) -> None:
    file.write_bytes((SECRETS[name] + end).encode())
    wanted = Settings.load({"DB_HOST": "h", name: SECRETS[name]})
    assert Settings.load({"DB_HOST": "h", f"{name}_FILE": str(file)}) == wanted
    config = file.with_name("config.json")
    config.write_bytes(msgspec.json.encode({"db_host": "h", f"{name.lower()}_file": str(file)}))
    assert Settings.load({CONFIG_FILE: str(config)}) == wanted


def test_blanks_belong_to_a_password(file: Path) -> None:
    file.write_text(" pä ss\t\n")
    assert Settings.load({"DB_HOST": "h", "DB_PASSWORD_FILE": str(file)}).db_password == " pä ss\t"


def test_one_of_64_kib_is_read_and_a_link_is_followed(file: Path) -> None:
    """The secrets of Kubernetes are links."""
    file.write_text("x" * (BYTES_MAX - 1) + "\n")
    link = file.with_name("link")
    link.symlink_to(file)
    password = Settings.load({"DB_HOST": "h", "DB_PASSWORD_FILE": str(link)}).db_password
    assert password is not None
    assert len(password) == BYTES_MAX - 1


@pytest.mark.parametrize("name", SECRETS)
def test_both_are_an_error_that_names_both(name: str, file: Path) -> None:
    file.write_text(SECRETS[name])
    with pytest.raises(ConfigurationError, match=f"{name} and {name}_FILE are both set") as caught:
        Settings.load({"DB_HOST": "h", name: SECRETS[name], f"{name}_FILE": str(file)})
    assert "hush" not in str(caught.value)
    config = file.with_name("config.json")
    key = name.lower()
    config.write_bytes(msgspec.json.encode({key: SECRETS[name], f"{key}_file": str(file)}))
    with pytest.raises(ConfigurationError, match=f"{key} in .* and {key}_file in .* are both set"):
        Settings.load({CONFIG_FILE: str(config)})


def test_the_environment_takes_precedence_over_the_json_file(file: Path) -> None:
    file.write_text("redis://of-the-file/0")
    config = file.with_name("config.json")
    config.write_text('{"redis_url": "redis://of-json/0"}')
    environ = {CONFIG_FILE: str(config), "REDIS_URL_FILE": str(file)}
    assert Settings.load(environ).redis_url == "redis://of-the-file/0"
    config.write_bytes(msgspec.json.encode({"redis_url_file": "/no/such/file"}))
    environ = {CONFIG_FILE: str(config), "REDIS_URL": "redis://of-the-environment/0"}
    assert Settings.load(environ).redis_url == "redis://of-the-environment/0"
    assert Settings.load({"REDIS_URL_FILE": "", "REDIS_URL": "redis://h/0"}).redis_url == "redis://h/0"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b" \t\r\n", "is empty"),
        (b"hush\xff", "is not UTF-8"),
        (b"hush\0", "contains a zero byte"),
        (b"hush\nhush\n", "has more than one line"),
        (b"hush\n\n", "has more than one line"),
        (b"hush\rhush", "has more than one line"),
        (b"\xef\xbb\xbfhush", "begins with a byte order mark"),
        (b"hush" * (BYTES_MAX // 4) + b"h", "is larger than 64 KiB"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(content: bytes, why: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^DB_PASSWORD_FILE names {file}, which {why}") as caught:
        Settings.load({"DB_HOST": "h", "DB_PASSWORD_FILE": str(file)})
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("kind", "why"),
    [("folder", "is a folder"), ("pipe", "is no regular file"), ("device", "is no regular file")],
)
def test_only_a_file_is_read(kind: str, why: str, file: Path) -> None:
    """A pipe would be waited for without end."""
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match=f"REDIS_URL_FILE names {file}, which {why}"):
        Settings.load({"REDIS_URL_FILE": str(file)})


@pytest.mark.parametrize(
    "path", ["hush", "/hush", "redis://:hush@h/0", "\0hush", "hush" * 5000, "/\udcffhush"]
)
def test_a_secret_in_the_place_of_the_path_is_not_shown(path: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL_FILE names a file that cannot be read") as caught:
        Settings.load({"REDIS_URL_FILE": path})
    assert "hush" not in str(caught.value)
    assert "not the secret itself" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_one_that_may_not_be_read(file: Path) -> None:
    file.write_text("hush")
    file.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        Settings.load({"REDIS_URL_FILE": str(file)})


@pytest.mark.parametrize("path", [7, True, ["a"], {}])
def test_a_path_in_the_json_file_is_a_text(path: object, file: Path) -> None:
    file.write_bytes(msgspec.json.encode({"redis_url_file": path}))
    with pytest.raises(ConfigurationError, match=r"redis_url_file in .* expects the path of a file"):
        Settings.load({CONFIG_FILE: str(file)})


def test_a_setting_that_is_no_secret_has_none(file: Path) -> None:
    file.write_text("4")
    assert Settings.load({"RISK_PARTITIONS_FILE": str(file)}).partitions == 1
    assert misspelt({"RISK_PARTITIONS_FILE": str(file)}) == {"RISK_PARTITIONS_FILE": "RISK_PARTITIONS"}


def test_an_error_in_the_value_names_the_file(file: Path) -> None:
    file.write_text("http://:hush@h")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({"REDIS_URL_FILE": str(file)})
    assert str(caught.value).startswith(
        f"REDIS_URL_FILE (file {file}) expects a URL that starts with redis://"
    )
    with pytest.raises(ConfigurationError, match=r"DB_PASSWORD_FILE \(file .*\) is set and DB_HOST is not"):
        Settings.load({"DB_PASSWORD_FILE": str(file)})


def test_config_and_doctor_name_the_file_and_not_the_value(file: Path) -> None:
    file.write_text("redis://:hush@h:1/0\n")
    config = file.with_name("config.json")
    config.write_text('{"risk_partitions": 4}')
    environ = {"REDIS_URL_FILE": str(file), CONFIG_FILE: str(config), "RISK_ON_FULL": "refuse"}
    done = CliRunner().invoke(cli, ["config"], env=environ)
    lines = done.stdout.splitlines()
    assert f"REDIS_URL=redis://:***@h:1/0  # REDIS_URL_FILE (file {file})" in lines
    assert f"RISK_PARTITIONS=4  # risk_partitions in {config}" in lines
    assert "RISK_ON_FULL=refuse" in lines
    said = [finding.what for finding in readable(environ)]
    assert f"REDIS_URL=redis://:***@h:1/0 from REDIS_URL_FILE (file {file})" in said
    assert "RISK_ON_FULL=refuse from the environment" in said
    assert "hush" not in done.output + str(said)


def test_the_dashboards_password(file: Path) -> None:
    file.write_text("hush\n")
    environ = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD_FILE": str(file)}
    assert dashboard._login(environ) == ("ops", "hush")
    with pytest.raises(ConfigurationError, match="RQ_DASHBOARD_PASSWORD and RQ_DASHBOARD_PASSWORD_FILE"):
        dashboard._login({**environ, "RQ_DASHBOARD_PASSWORD": "other"})
