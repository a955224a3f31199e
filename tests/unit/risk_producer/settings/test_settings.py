"""A variable that is almost a setting is named by the commands; one that is not like any is let alone."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, RiskProducer
from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.errors import ConfigurationError
from risk_producer.session.options import Options
from risk_producer.settings import CONFIG_FILE, Settings, check_arguments, fields, misspelt
from risk_producer.settings.pairs import PAIRS, Role
from risk_worker.cli import cli

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RISK_BATCHSIZE", "RISK_BATCH_SIZE"),
        ("RISK_PARTITION", "RISK_PARTITIONS"),
        ("RISK_CONF", "RISK_CONFIG"),
        ("REDIS_URI", "REDIS_URL"),
        ("redis_url", "REDIS_URL"),
        ("POSTGRES_URI", "POSTGRES_URL"),
        ("POSTGRES_SSL_MODE", "POSTGRES_SSLMODE"),
        ("ENABLE_PERSISTANCE", "ENABLE_PERSISTENCE"),
        ("RQ_REDIS_URI", "RQ_REDIS_URL"),
        ("RISK_SPOOLDIR", "RISK_SPOOL_DIR"),
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
    assert ours > {"RISK_TEST_KILLS", "RISK_TEST_RESTARTS", "REDIS_MAXMEMORY", "REDIS_PORT"}
    others = {
        *(
            "REDIS_HOST",
            "REDIS_DB",
            "DB_URL",
            "DB_USERNAME",
            "RISK_LIMITS",
            "PATH",
            "MY_REDIS_URL",
            "APP_DB_HOST",
        ),
        *("POSTGRES_USER", "POSTGRES_DB", "RQ_REDIS_HOST", "RQ_REDIS_SSL", "DATABASE_URL", "PGUSER", ""),
    }
    assert misspelt(dict.fromkeys(ours | settings | others, "1")) == {}


def test_a_command_says_it_in_one_line() -> None:
    done = CliRunner().invoke(cli, ["config"], env={"RISK_BATCHSIZE": "4"})
    assert done.exit_code == 0
    assert done.stderr == "riskstream: RISK_BATCHSIZE is no setting; do you mean RISK_BATCH_SIZE?\n"
    assert "RISK_BATCH_SIZE=10000" in done.stdout


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

    @pytest.mark.parametrize("text", ["", " ", "\t"])
    def test_an_empty_text_is_not_set(self, text: str, tmp_path: Path) -> None:
        """A folder called "" would be the one that the process happens to run in."""
        variables = [meta["env"] for meta in Settings.declared().values()]
        assert Settings.load(dict.fromkeys(variables, text)) == Settings()
        path = tmp_path / "config.json"
        path.write_text(msgspec.json.encode({name.lower(): "" for name in variables}).decode())
        assert Settings.load({CONFIG_FILE: str(path)}) == Settings()

    def test_null_in_a_file_is_not_set(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text('{"db_name": null, "db_password": null, "postgres_sslmode": null, "spool_dir": null}')
        with pytest.raises(ConfigurationError, match="unknown key 'spool_dir'"):
            Settings.load({CONFIG_FILE: str(path)})
        path.write_text(
            '{"db_name": null, "db_password": null, "postgres_sslmode": null, "risk_spool_dir": null}'
        )
        assert Settings.load({CONFIG_FILE: str(path)}) == Settings()

    def test_a_whole_number_in_a_file_may_be_a_text(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text(
            '{"db_host": "h", "db_password": 1234, "feature_flags": {"enable_persistence": false}}'
        )
        settings = Settings.load({CONFIG_FILE: str(path)})
        assert (settings.db_password, settings.persistent) == ("1234", False)

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
        ({"RISK_SPOOL_MAX_BYTES": "67108864"}, ("RISK_SPOOL_MAX_BYTES", "RISK_SPOOL_DIR")),
        ({"RISK_FLUSH_INTERVAL_MS": "10000"}, ("RISK_FLUSH_INTERVAL_MS", "RISK_DRAIN_TIMEOUT_S")),
        ({"RISK_NAMESPACES": "a,b", "RISK_NAMESPACE": "a"}, ("RISK_NAMESPACES", "RISK_NAMESPACE")),
        ({"RISK_NAMESPACES": "a", "RISK_NAMESPACE": "b"}, ("RISK_NAMESPACES", "RISK_NAMESPACE")),
        ({"RISK_DRAIN_TIMEOUT_S": "0.005"}, ("RISK_FLUSH_INTERVAL_MS", "RISK_DRAIN_TIMEOUT_S")),
        ({"DB_HOST": "h1,h2", "DB_PORT": "1,2,3"}, ("DB_HOST", "DB_PORT")),
        ({"DB_HOST": "h", "DB_PORT": "1,2"}, ("DB_HOST", "DB_PORT")),
    ],
)
def test_settings_that_make_no_sense_together_name_both(
    environ: dict[str, str], both: tuple[str, str], tmp_path: Path
) -> None:
    role = role_of(environ)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ, role=role)
    assert all(variable in str(caught.value) for variable in both)
    path = tmp_path / "config.json"
    path.write_text(msgspec.json.encode({name.lower(): value for name, value in environ.items()}).decode())
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({CONFIG_FILE: str(path)}, role=role)
    assert all(variable.lower() in str(caught.value).lower() for variable in both)


def role_of(environ: dict[str, str]) -> Role | None:
    """The kind of process that uses these settings; None: every kind."""
    if any(name.startswith("RISK_SPOOL") for name in environ):
        return "trader"
    return "worker" if any(name.startswith("RISK_") for name in environ) else None


@pytest.mark.parametrize(
    ("environ", "others"),
    [
        ({"RISK_SPOOL_FSYNC": "always"}, ("worker", None)),
        ({"RISK_SPOOL_MAX_BYTES": "100000"}, ("worker", None)),
        ({"RISK_BACKOFF_CAP_MS": "100"}, ("trader", None)),
        ({"RISK_FLUSH_INTERVAL_MS": "10000"}, ("trader", None)),
        ({"RISK_SPOOL_FSYNC": "always", "RISK_SPOOL_MAX_BYTES": "70000"}, ("worker",)),
    ],
)
def test_a_process_that_does_not_use_them_logs_each_once_and_goes_on(
    environ: dict[str, str],
    others: tuple[Role | None, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fields, "_logged", set())
    for _ in range(2):
        for other in others:
            assert Settings.load(environ, role=other) != Settings()
    for variable in environ:
        assert caplog.text.count(f"{variable} is ") == 1
    assert caplog.text.count("This process does not use them") == len(environ)


@pytest.mark.parametrize("role", ["trader", "worker", None])
def test_what_every_process_may_use_stops_each_of_them(role: Role | None) -> None:
    with pytest.raises(ConfigurationError, match="DB_NAME is risk and DB_HOST is not set"):
        Settings.load({"DB_NAME": "risk"}, role=role)


def test_a_pair_shows_no_secret() -> None:
    with pytest.raises(ConfigurationError, match="DB_PASSWORD is set and DB_HOST is not set") as caught:
        Settings.load({"DB_PASSWORD": "s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RISK_SPOOL_FSYNC": "never"},
        {"RISK_SPOOL_FSYNC": "always", "RISK_SPOOL_MAX_BYTES": "70000", "RISK_SPOOL_DIR": "/spool"},
        {"RISK_BACKOFF_BASE_MS": "100", "RISK_BACKOFF_CAP_MS": "100"},
        {"RISK_FLUSH_INTERVAL_MS": "9999", "RISK_DRAIN_TIMEOUT_S": "10"},
        {"DB_NAME": "risk", "POSTGRES_URL": "postgresql://h/d"},
        {"DB_HOST": "h1,h2", "DB_PORT": "1,2", "DB_PASSWORD": "p", "POSTGRES_SSLMODE": "require"},
        {"DB_HOST": "h1,h2", "DB_PORT": "1"},
        {"RISK_ON_FULL": "refuse", "RISK_SAVE_TIMEOUT_S": "60"},
        {"RISK_BUFFER_SIZE": "1000", "RISK_STREAM_MAXLEN": "1", "RISK_BATCH_SIZE": "50000"},
        {"PERSISTENCE_BACKEND": "memory", "RISK_SPOOL_DIR": "/spool", "POSTGRES_URL": "postgresql://h/d"},
        {"RISK_MAX_RETRIES": "0", "RISK_BACKOFF_BASE_MS": "1", "RISK_BACKOFF_CAP_MS": "600000"},
        {"RQ_REDIS_URL": "redis://h/1"},
    ],
)
def test_settings_that_have_a_meaning_together(environ: dict[str, str]) -> None:
    Settings.load(environ)


def test_every_pair_is_of_settings() -> None:
    assert {field for pair in PAIRS for field in (pair.first, pair.second)} <= Settings.declared().keys()


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
        ({"spool_fsync": "always"}, "spool_fsync is always and spool_dir is not set"),
        ({"spool_max_bytes": 65_536}, "spool_max_bytes is 65536 and spool_dir is not set"),
        ({"spool_max_bytes": 1, "spool_dir": Path("/spool")}, "spool_max_bytes expects"),
        ({"spool_dir": ""}, "spool_dir is an empty text"),
        ({"spool_dir": "/sp\0ol"}, "spool_dir contains a zero byte"),
        ({"spool_dir": b"/spool"}, "spool_dir expects a text"),
        ({"partitions": True}, "partitions expects"),
        ({"replicas": -1}, "replicas expects a whole number from 0 to 100, got -1"),
        ({"replicas": 101}, "replicas expects"),
        ({"replicas": 1.5}, "replicas expects"),
        ({"replicas": "1"}, "replicas expects"),
        ({"replicas": True}, "replicas expects"),
        ({"replicas": None}, "replicas expects"),
        ({"save_timeout_s": float("inf")}, "save_timeout_s expects"),
        ({"database_url": "mysql://h/d"}, "database_url expects a URL that starts with postgresql://"),
        ({"database_url": 5}, "database_url expects a text, got the value given"),
        ({"database_url": "postgresql://h:1,h:2,h:3/d?host=h"}, "database_url: 3 ports for 1 host(s)"),
    ],
)
def test_arguments_of_a_constructor_follow_the_same_rules(
    producer: Any, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        producer("redis://127.0.0.1:1/0", registry=CollectorRegistry(), **arguments)


@pytest.mark.parametrize("made", [RiskProducer, Options])
def test_a_default_of_a_constructor_is_that_of_the_setting(made: Any) -> None:
    defaults = msgspec.structs.asdict(Settings())
    parameters = inspect.signature(made).parameters
    shared = parameters.keys() & defaults.keys()
    assert len(shared) >= 5
    assert {name: parameters[name].default for name in shared} == {name: defaults[name] for name in shared}


@pytest.mark.parametrize("producer", [RiskProducer, AsyncRiskProducer])
def test_from_env_names_a_misspelt_variable(
    producer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("RISK_ONFULL", "refuse")
    producer.from_env(registry=CollectorRegistry())
    assert "RISK_ONFULL is no setting; do you mean RISK_ON_FULL?" in caplog.text


class TestTheNamespace:
    """RISK_NAMESPACE is checked where it enters: in the environment, in the file, as an argument."""

    def test_is_empty_by_default(self) -> None:
        assert Settings.load({}).keyspace == NO_NAMESPACE
        assert Settings.load({"RISK_NAMESPACE": ""}).keyspace == NO_NAMESPACE

    def test_is_in_all_names_of_keys(self) -> None:
        assert Settings.load({"RISK_NAMESPACE": " desk-1 "}).keyspace == Keyspace("desk-1")

    @pytest.mark.parametrize("bad", ["a:b", "{a}", "a b", "ä", "x" * 65, "a*"])
    def test_is_refused_in_the_environment(self, bad: str) -> None:
        with pytest.raises(ConfigurationError, match="RISK_NAMESPACE expects 1 to 64 of a-z, A-Z, 0-9"):
            Settings.load({"RISK_NAMESPACE": bad})

    @pytest.mark.parametrize("bad", ["a:b", "a\n"])
    def test_is_refused_in_the_file(self, bad: str, tmp_path: Path) -> None:
        (tmp_path / "config").write_bytes(msgspec.json.encode({"risk_namespace": bad}))
        with pytest.raises(ConfigurationError, match=r"risk_namespace in .* expects 1 to 64 of"):
            Settings.load({"RISK_CONFIG": str(tmp_path / "config")})

    @pytest.mark.parametrize("bad", ["a:b", "a\n", 7, None])
    def test_is_refused_as_an_argument(self, bad: Any) -> None:
        with pytest.raises(ConfigurationError, match="namespace expects 1 to 64 of"):
            check_arguments(namespace=bad)
        check_arguments(namespace="")


SECRET_VARIABLES = (
    "POSTGRES_URL",
    "REDIS_URL",
    "RQ_REDIS_URL",
    "DB_PASSWORD",
    "DB_HOST",
    "DB_USER",
    "DB_NAME",
)


@pytest.mark.parametrize("variable", [*SECRET_VARIABLES, "DB_PORT", "RISK_PARTITIONS", "RISK_NAMESPACE"])
@pytest.mark.parametrize(
    "secret", ["hush", "hu://sh", "a/hush", "hush://x@y", "12/34hush@h", "a#hush?x=1", "@hush"]
)
@pytest.mark.parametrize(
    "form", ["{}", "postgresql://u:{}@h/d", "redis://u:{}@h:1/0", "postgresql://h:1/d?PASSWORD={}"]
)
def test_nothing_that_is_shown_has_a_password(variable: str, secret: str, form: str) -> None:
    """Where a password, or a URL with one, came into any variable: not in `config`, an error or repr()."""
    if form == "{}" and variable != "DB_PASSWORD":
        return
    environ = {"DB_HOST": "localhost", variable: form.format(secret)}
    try:
        settings = Settings.load(environ)
        shown = f"{settings!r} {settings} {settings.shown()}"
    except ConfigurationError as error:
        shown = str(error)
    assert "hush" not in shown


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
def test_a_trader_reports_in_one_namespace(
    kind: type[RiskProducer], caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"REDIS_URL": "redis://h", "RISK_NAMESPACES": " desk2, desk1"}
    settings = Settings.load(environ, role="worker")
    assert settings.keyspace == Keyspace.of(["desk1", "desk2"]) and settings.assigns_traders
    assert caplog.messages == []
    with pytest.raises(ConfigurationError, match="set RISK_NAMESPACE in its place"):
        kind.from_settings(Settings.load(environ, role="trader"), registry=CollectorRegistry())
    one = Settings.load({**environ, "RISK_NAMESPACES": "desk1", "RISK_NAMESPACE": "desk1"})
    assert (one.require_namespace(), one.keyspace, one.assigns_traders) == ("desk1", Keyspace("desk1"), True)
    assert not Settings.load({"RISK_NAMESPACE": "desk1"}).assigns_traders
