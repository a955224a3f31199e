"""A variable that is almost a setting is named by the commands; one that is not like any is let alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, RiskProducer
from risk_producer.errors import ConfigurationError
from risk_producer.settings import CONFIG_FILE, Settings, misspelt
from risk_worker.cli import cli

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RISK_BATCHSIZE", "RISK_BATCH_SIZE"),
        ("RISK_PARTITION", "RISK_PARTITIONS"),
        ("RISK_CONF", "RISK_CONFIG"),
        ("REDIS_URI", "REDIS_URL"),
        ("DB_PASWORD", "DB_PASSWORD"),
    ],
)
def test_a_slip_is_noticed(name: str, meant: str) -> None:
    assert misspelt({name: "4"}) == {name: meant}


def test_other_names_are_let_alone() -> None:
    settings = {CONFIG_FILE, *(meta["env"] for meta in Settings.declared().values())}
    files = ("docker-compose.yml", ".env.example", "CONTRIBUTING.md", "docs/reliability.md")
    ours = set(
        re.findall(r"\b(?:RISK|REDIS|DB)_[A-Z_]*[A-Z]", " ".join((ROOT / f).read_text() for f in files))
    )
    assert ours > {"RISK_TEST_KILLS", "RISK_TEST_RESTARTS", "REDIS_MAXMEMORY", "REDIS_PASSWORD", "REDIS_PORT"}
    others = {"REDIS_HOST", "REDIS_DB", "DB_URL", "RISK_LIMITS", "PATH"}
    assert misspelt(dict.fromkeys(ours | settings | others, "1")) == {}


def test_a_command_says_it_in_one_line() -> None:
    done = CliRunner().invoke(cli, ["config"], env={"RISK_BATCHSIZE": "4"})
    assert done.exit_code == 0
    assert done.stderr == "riskstream: RISK_BATCHSIZE is no setting; do you mean RISK_BATCH_SIZE?\n"
    assert "RISK_BATCH_SIZE=5000" in done.stdout


class TestWhatComesFromOutside:
    """Whatever it is, it is a ConfigurationError that names where it came from, or a setting."""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"[" * 100_000, "is not JSON"),
            (b'{"redis_url":' * 100_000, "is not JSON"),
            (b'{"redis_url": "redis://\xff"}', "is not JSON"),
            (b'{"db_host": "h\xc3"}', "is not JSON"),
            (b"\xff\xfe", "is not JSON"),
            (b"", "is not JSON"),
            (b"7", "must hold a JSON object"),
            (b'{"db_port": 1e400}', "is not JSON"),
            (b'{"db_port": 0.5}', "db_port in"),
            (b'{"redis_url": "redis://h/abc"}', "redis_url in"),
            (b'{"redis_url": "redis://h\\ud800"}', "is not JSON"),
            (b'{"feature_flags": []}', "feature_flags in"),
        ],
    )
    def test_a_file(self, content: bytes, said: str, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=said) as caught:
            Settings.load({CONFIG_FILE: str(path)})
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("path", ["/", "/no/such/file", "\0", "/\udcff", "x" * 5000])
    def test_a_name_of_a_file(self, path: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{CONFIG_FILE} names .*cannot be read"):
            Settings.load({CONFIG_FILE: path})

    @pytest.mark.parametrize("setting", [meta["env"] for meta in Settings.declared().values()])
    @pytest.mark.parametrize(
        "value", [b"\xff\xfe", b"\x00", b"9" * 5000, b"[" * 5000, "\u0663".encode(), b" "]
    )
    def test_a_variable(self, setting: str, value: bytes) -> None:
        text = value.decode(errors="surrogateescape")
        try:
            Settings.load({setting: text, **({"DB_HOST": "h"} if setting != "DB_HOST" else {})})
        except ConfigurationError as error:
            said = str(error)
        else:
            return
        assert setting in said
        assert said.encode()

    def test_a_port_is_a_number_in_a_file_and_may_be_a_list(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text('{"db_host": "h1,h2", "db_port": 5433, "db_name": "risk"}')
        assert Settings.load({CONFIG_FILE: str(path)}).database_url == (
            "postgresql://postgres@/risk?host=h1,h2&port=5433"
        )
        path.write_text('{"db_host": "h1,h2", "db_port": "5433,5434", "db_password": "a/b"}')
        assert Settings.load({CONFIG_FILE: str(path)}).database_url == (
            "postgresql://postgres:a%2Fb@/postgres?host=h1,h2&port=5433,5434"
        )


@pytest.mark.parametrize(
    ("environ", "both"),
    [
        ({"RISK_SPOOL_FSYNC": "always"}, ("RISK_SPOOL_FSYNC", "RISK_SPOOL_DIR")),
        ({"RISK_SPOOL_FSYNC": "interval"}, ("RISK_SPOOL_FSYNC", "RISK_SPOOL_DIR")),
        (
            {"RISK_BACKOFF_BASE_MS": "200", "RISK_BACKOFF_CAP_MS": "100"},
            ("RISK_BACKOFF_BASE_MS", "RISK_BACKOFF_CAP_MS"),
        ),
        ({"RISK_BACKOFF_CAP_MS": "100"}, ("RISK_BACKOFF_BASE_MS", "RISK_BACKOFF_CAP_MS")),
        ({"DB_NAME": "risk"}, ("DB_NAME", "DB_HOST")),
        ({"DB_USER": "risk"}, ("DB_USER", "DB_HOST")),
        ({"DB_PASSWORD": "risk"}, ("DB_PASSWORD", "DB_HOST")),
        ({"DB_PORT": "5432"}, ("DB_PORT", "DB_HOST")),
        ({"POSTGRES_SSLMODE": "require"}, ("POSTGRES_SSLMODE", "POSTGRES_URL")),
        ({"RISK_SPOOL_MAX_BYTES": "100000"}, ("RISK_SPOOL_MAX_BYTES", "RISK_SPOOL_DIR")),
    ],
)
def test_settings_that_make_no_sense_together_name_both(
    environ: dict[str, str], both: tuple[str, str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    assert all(variable in str(caught.value) for variable in both)


@pytest.mark.parametrize("producer", [RiskProducer, AsyncRiskProducer])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"partitions": 0}, "partitions expects a whole number from 1 to 256, got 0"),
        ({"partitions": 257}, "partitions expects"),
        ({"partitions": "4"}, "partitions expects"),
        ({"buffer_size": 0}, "buffer_size expects"),
        ({"stream_maxlen": -1}, "stream_maxlen expects"),
        ({"save_timeout_s": float("nan")}, "save_timeout_s expects"),
        ({"on_full": "drop"}, "on_full expects one of block, refuse, conflate, got 'drop'"),
        ({"spool_fsync": "sometimes"}, "spool_fsync expects"),
        ({"spool_fsync": "always"}, "spool_fsync is 'always', but spool_dir is None"),
    ],
)
def test_arguments_of_a_constructor_follow_the_same_rules(
    producer: Any, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        producer("redis://127.0.0.1:1/0", registry=CollectorRegistry(), **arguments)


@pytest.mark.parametrize("producer", [RiskProducer, AsyncRiskProducer])
def test_from_env_names_a_misspelt_variable(
    producer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("RISK_ONFULL", "refuse")
    producer.from_env(registry=CollectorRegistry())
    assert "RISK_ONFULL is no setting; do you mean RISK_ON_FULL?" in caplog.text
