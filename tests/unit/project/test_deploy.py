"""The deployment files say what the program understands. They are parsed, not run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from risk_producer.settings import Settings
from risk_producer.settings.address import redis_address
from risk_worker.monitor.catalogue import METRICS
from risk_worker.stream import permissions
from tests.support.compose import VARIABLE, compose
from tests.support.deploy import ROOT, command_exists, make_secrets

COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("riskstream:")}
SETTINGS = {meta["env"]: meta for meta in Settings.declared().values()}
DASHBOARD_ENV = {"RQ_DASHBOARD_USERNAME", "RQ_DASHBOARD_PASSWORD_FILE"}
MOUNTED = "/run/secrets/"
"""Where a container has its secrets."""

PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$")


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


def test_every_variable_has_a_default() -> None:
    assert [name for name, rest in VARIABLE.findall(COMPOSE_TEXT) if not rest.startswith(":-")] == []


def test_defaults_in_the_example_are_those_of_the_file() -> None:
    defaults = {name: rest[2:] for name, rest in VARIABLE.findall(COMPOSE_TEXT) if rest.startswith(":-")}
    assert defaults == {name: value for name, value in _example().items() if name in defaults}


@pytest.mark.parametrize("name", SERVICES)
def test_a_secret_is_a_file_that_the_service_has(name: str) -> None:
    """And it has no other."""
    environment = SERVICES[name].get("environment", {})
    for key, value in environment.items():
        if re.search(r"PASSWORD|AUTH|SECRET|TOKEN", key) or SETTINGS.get(key, {}).get("secret"):
            assert key.endswith("_FILE"), key
            assert value.startswith(MOUNTED), key
    used = f"{environment} {SERVICES[name].get('command')} {SERVICES[name].get('healthcheck')}"
    for config in SERVICES[name].get("configs", []):
        used += COMPOSE["configs"][config["source"]]["content"]
    if name == "grafana":
        used += (ROOT / "ops/grafana/provisioning/datasources/riskstream.yml").read_text()
    if name != "cluster-create":  # it has what the nodes have
        assert set(SERVICES[name].get("secrets", [])) == set(re.findall(rf"{MOUNTED}(\w+)", used))


def test_no_password_stands_in_a_command() -> None:
    for service in SERVICES.values():
        for text in (str(service.get("command", "")), str(service.get("healthcheck", ""))):
            assert not re.search(r"\$\{\w*PASSWORD|://[^$]*:[^$@]+@", text)


@pytest.mark.parametrize("name", OWN)
def test_every_setting_is_known(name: str) -> None:
    allowed = Settings.variables() | (DASHBOARD_ENV if name == "dashboard" else set())
    assert set(OWN[name].get("environment", {})) <= allowed


FILLED: dict[str, dict[str, Any]] = compose({})["services"]
PASSWORDS = {
    "DB_PASSWORD": "p@ss:w/rd",
    "DB_OWNER_PASSWORD": "0wn/er",
    "READER_PASSWORD": "r3ad/er",
    "OPERATOR_PASSWORD": "0perate",
    "REDIS_PASSWORD": "0123abcd",
}
CONSOLES = ("console", "console-cluster", "console-sentinel")
USERS = {f"console{each}": "operator" for each in ("", "-cluster", "-sentinel")}
"""Service -> its user of Redis, where that has another name."""
URLS = {
    "cluster": "redis+cluster://:0123abcd@node-1:6379,node-2:6379,node-3:6379",
    "sentinel": "redis+sentinel://:0123abcd@sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/mymaster/0"
    "?sentinel_password=0123abcd",
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with the passwords above."""
    folder = tmp_path_factory.mktemp("secrets")
    assert make_secrets(folder, PASSWORDS).returncode == 0
    return folder


class TestSecrets:
    """ops/make-secrets."""

    def test_it_makes_every_file_that_compose_names(self, secrets: Path) -> None:
        files = {each["file"] for each in COMPOSE["secrets"].values()}
        for_others = {f"redis_{name.replace('-', '_')}_password" for name in permissions.roles()}
        assert files == {
            f"./secrets/{path.name}" for path in secrets.iterdir() if path.name not in for_others
        }
        assert for_others <= {path.name for path in secrets.iterdir()}
        assert all(each["file"] == f"./secrets/{name}" for name, each in COMPOSE["secrets"].items())
        assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()

    def test_only_its_owner_may_enter_the_folder_and_services_may_read_the_files(self, secrets: Path) -> None:
        assert secrets.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}

    def test_a_password_that_is_there_stays(self, tmp_path: Path) -> None:
        make_secrets(tmp_path, {})
        before = {path.name: path.read_text() for path in tmp_path.iterdir()}
        passwords = [text for name, text in before.items() if name.endswith("_password")]
        assert len(set(passwords)) == len(passwords)
        assert {len(text) for text in passwords} == {40}
        make_secrets(tmp_path, PASSWORDS)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before

    def test_urls_and_users_follow_the_passwords_of_redis(self, tmp_path: Path) -> None:
        make_secrets(tmp_path, {})
        (tmp_path / "redis_worker_password").write_text(
            "changed1\n"
        )  # as an editor leaves it, for its owner alone
        (tmp_path / "redis_worker_password").chmod(0o600)
        make_secrets(tmp_path, {})
        assert (tmp_path / "redis_worker_password").stat().st_mode & 0o777 == 0o644
        assert (tmp_path / "worker_url").read_text() == "redis://worker:changed1@redis:6379/0"
        assert f"user worker on #{sha256(b'changed1').hexdigest()} " in (tmp_path / "redis_users").read_text()
        (tmp_path / "redis_worker_password").write_text("p@ss")
        refused = make_secrets(tmp_path, {})
        assert refused.returncode == 1
        assert "letters and digits" in refused.stderr
        assert (tmp_path / "worker_url").read_text() == "redis://worker:changed1@redis:6379/0"

    def test_all_users_of_redis_are_made(self, tmp_path: Path) -> None:
        make_secrets(tmp_path, {"RISK_NAMESPACE": "desk1"})
        lines = (tmp_path / "redis_users").read_text().splitlines()
        assert {line.split()[1] for line in lines} == {"default", "admin", *permissions.roles()}
        assert all("~desk1:" in line and "~risk" not in line for line in lines[2:])

    @pytest.mark.parametrize(
        "line",
        [
            'RISK_NAMESPACE="desk1"',
            "RISK_NAMESPACE='desk1' # ours",
            "RISK_NAMESPACE=desk1 # ours",
            "export RISK_NAMESPACE = desk1",
            "RISK_NAMESPACE=desk1\r",
            "RISK_NAMESPACE=desk0\nRISK_NAMESPACE=desk1",
            "RISK_NAMESPACES=desk1",
        ],
    )
    def test_the_namespace_is_read_as_compose_reads_it(self, tmp_path: Path, line: str) -> None:
        (tmp_path / ".env").write_bytes(f"REDIS_PORT=6379\n{line}\n".encode())
        assert make_secrets(tmp_path / "secrets", {}, tmp_path / ".env").returncode == 0
        lines = (tmp_path / "secrets/redis_users").read_text().splitlines()
        assert len(lines) > 8 and all("~desk1:" in each and "~risk" not in each for each in lines[2:])

    def test_no_namespace_is_none(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("RISK_NAMESPACE= # none\nRISK_NAMESPACES=\n")
        assert make_secrets(tmp_path / "secrets", {}, tmp_path / ".env").returncode == 0
        assert "~risk:{*}:" in (tmp_path / "secrets/redis_users").read_text()

    @pytest.mark.parametrize("name", ["RISK_NAMESPACE", "RISK_NAMESPACES"])
    def test_a_bad_namespace_leaves_the_users_as_they_were(self, tmp_path: Path, name: str) -> None:
        """An empty file would open Redis: without a line of its own, the user default may do everything."""
        make_secrets(tmp_path, {})
        before = (tmp_path / "redis_users").read_text()
        refused = make_secrets(tmp_path, {name: 'desk1"'})
        assert refused.returncode != 0
        assert "a namespace has" in refused.stderr
        assert (tmp_path / "redis_users").read_text() == before

    def test_traders_of_several_desks_are_users_of_their_own(self, tmp_path: Path) -> None:
        make_secrets(tmp_path, {"RISK_NAMESPACES": "desk1, desk2,"}).check_returncode()
        lines = {line.split()[1]: line for line in (tmp_path / "redis_users").read_text().splitlines()}
        assert lines.keys() == {"default", "admin", *permissions.roles(), "desk1-trader", "desk2-trader"} - {
            "trader"
        }
        password = (tmp_path / "namespace-desk2/redis_trader_password").read_bytes()
        assert sha256(password).hexdigest() in lines["desk2-trader"]
        assert "~desk2:" in lines["desk2-trader"] and "desk1" not in lines["desk2-trader"]
        assert "~desk1:" in lines["worker"] and "~desk2:" in lines["worker"]


def settings_of(name: str, secrets: Path) -> Settings:
    """As the service loads them, with its files."""
    environment = FILLED[name].get("environment", {})
    return Settings.load({key: value.replace(MOUNTED, f"{secrets}/") for key, value in environment.items()})


@pytest.mark.parametrize("name", OWN)
def test_the_settings_in_the_file_load(name: str, secrets: Path) -> None:
    settings = settings_of(name, secrets)
    if "DB_HOST" in FILLED[name].get("environment", {}):
        logins = {
            "exporter": "risk_monitor:r3ad%2Fer",
            **dict.fromkeys(("migrate", "grants"), "risk_migrate:0wn%2Fer"),
            **dict.fromkeys(CONSOLES, "risk_console:0perate"),
        }
        login = logins.get(name, "risk_worker:p%40ss%3Aw%2Frd")
        assert settings.require_database_url().startswith(f"postgresql://{login}@postgres:5432/risk")
    if "REDIS_URL_FILE" in FILLED[name].get("environment", {}):
        user = USERS.get(name, name.partition("-")[0])
        own = f"redis://{user}:{(secrets / f'redis_{user}_password').read_text()}@redis:6379/0"
        assert settings.require_redis_url() == URLS.get(name.partition("-")[2], own)


def test_nothing_logs_in_as_a_superuser_and_the_owner_changes_tables_alone() -> None:
    """The superuser has no password after the first start; workers are members of one group."""
    logins = (ROOT / "db" / "logins.sql").read_text()
    made = dict(re.findall(r"^CREATE ROLE (\w+) LOGIN PASSWORD :'\w+' IN ROLE (\w+);", logins, re.M))
    assert made == {
        "risk_migrate": "risk_owner",
        "risk_worker": "risk_writer",
        "risk_monitor": "risk_reader",
        "risk_console": "risk_operator",
    }
    before = logins.partition("CREATE ROLE")[0]
    for quiet in ("'log_statement', 'none'", "'log_min_error_statement', 'panic'"):
        assert f"set_config({quiet}, false)" in before
    last = "ALTER ROLE CURRENT_USER PASSWORD NULL;"
    assert last in (ROOT / "db" / "alone.sql").read_text().splitlines()
    assert last not in logins, "a server of one's own has an administrator, who runs it"
    environ = FILLED["postgres"]["environment"]
    assert set(re.findall(r"^\\set \w+ `cat \"\$(\w+)\"`$", logins, re.M)) <= set(environ)
    assert environ["POSTGRES_USER"] not in made
    for name, service in FILLED.items():
        user = service.get("environment", {}).get("DB_USER")
        if user is not None:
            groups = {"migrate": "risk_owner", "grants": "risk_owner", "exporter": "risk_reader"}
            groups |= dict.fromkeys(CONSOLES, "risk_operator")
            assert made[user] == groups.get(name, "risk_writer"), name
            by_itself = user in ("risk_worker", "risk_console")
            assert by_itself == (service["environment"].get("RISK_MIGRATE") == "never")
    targets = [v.split(":")[1] for v in SERVICES["postgres"]["volumes"] if v.startswith("./db/")]
    assert [Path(each).name for each in targets] == [*("100_roles.sql", "101_logins.sql", "102_alone.sql")], (
        "in this order"
    )


def test_rq_is_where_it_can_be(secrets: Path) -> None:
    of_cluster = settings_of("worker-cluster", secrets)
    assert of_cluster.require_rq_redis_url().startswith("redis://worker:")
    assert of_cluster.require_rq_redis_url().endswith("@rq:6379/0")
    assert of_cluster.partitions == 16
    of_sentinel = settings_of("worker-sentinel", secrets)
    assert of_sentinel.require_rq_redis_url() == of_sentinel.require_redis_url()


def test_what_a_profile_adds_starts_only_with_it() -> None:
    """`docker compose up` alone: one Redis and what belongs to it, as before there were profiles."""
    usual = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert usual == {"postgres", "redis", "migrate", "grants", "worker", "exporter", "dashboard"}
    for name, service in SERVICES.items():
        allowed = usual | {
            other for other in SERVICES if SERVICES[other].get("profiles") == service.get("profiles")
        }
        assert set(service.get("depends_on", {})) <= allowed, name


@pytest.mark.parametrize("name", OWN)
def test_the_servers_of_a_url_are_there(name: str, secrets: Path) -> None:
    """Each is a service in a network of the one that asks, which waits for it, or for what waits for it.

    A console waits for nothing: it is asked when something is wrong."""
    wanted = set(SERVICES[name].get("depends_on", {}))
    for other in list(wanted):
        wanted |= set(SERVICES[other].get("depends_on", {}))
    settings = settings_of(name, secrets)
    for setting, url in (("REDIS_URL", settings.redis_url), ("RQ_REDIS_URL", settings.rq_redis_url)):
        if url is not None:
            for host, port in redis_address(url, setting).places:
                assert host in wanted or name in CONSOLES
                assert set(networks(host)) & set(networks(name))
                assert port == (26379 if host.startswith("sentinel") else 6379)


def networks(name: str) -> dict[str, Any]:
    found: dict[str, Any] = FILLED[name].get("networks", {"default": {}})
    return found


def test_every_fixed_address_is_another_one_in_the_network() -> None:
    addresses = [
        address
        for name in FILLED
        if (address := networks(name).get("redis", {}).get("ipv4_address")) is not None
    ]
    assert len(set(addresses)) == len(addresses) == 12
    [pool] = compose({})["networks"]["redis"]["ipam"]["config"]
    assert all(ip_address(address) in ip_network(pool["subnet"]) for address in addresses)
    assert not any(ip_address(address) in ip_network(pool["ip_range"]) for address in addresses)
    create = FILLED["cluster-create"]["command"][-1]
    nodes = [networks(f"node-{number}")["redis"]["ipv4_address"] for number in range(1, 7)]
    assert re.findall(r"([\d.]+):6379", create) == nodes
    content = FILLED_CONFIGS["replica"]["content"] + FILLED_CONFIGS["sentinel"]["content"]
    master = networks("server-1")["redis"]["ipv4_address"]
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", content)) == {master}


FILLED_CONFIGS: dict[str, dict[str, str]] = compose({})["configs"]


@pytest.mark.parametrize("name", [name for name in SERVICES if "configs" in SERVICES[name]])
def test_every_server_asks_for_the_password(name: str, secrets: Path) -> None:
    """Its configuration includes the file, or is put together with it."""
    [config] = SERVICES[name]["configs"]
    if config["source"] == "redis":
        assert f"aclfile {MOUNTED}redis_users" in FILLED_CONFIGS["redis"]["content"].splitlines()
        assert "user default off" in (secrets / "redis_users").read_text().splitlines()
        return
    file = "sentinel_auth" if config["source"] == "sentinel" else "redis_auth"
    included = f"include {MOUNTED}{file}" in FILLED_CONFIGS[config["source"]]["content"].splitlines()
    joined = f"cat {config['target']} {MOUNTED}{file} >" in SERVICES[name]["command"][-1]
    assert included != joined or name == "cluster-create"
    lines = (secrets / file).read_text().splitlines()
    assert "requirepass 0123abcd" in lines
    if file == "sentinel_auth":
        assert {"sentinel sentinel-pass 0123abcd", "sentinel auth-pass mymaster 0123abcd"} <= set(lines)
    else:
        assert "masterauth 0123abcd" in lines


@pytest.mark.parametrize("name", OWN)
def test_commands_exist(name: str) -> None:
    assert command_exists(OWN[name]["command"])


def test_a_command_that_does_not_exist_is_found_out() -> None:
    assert not command_exists(["wrker"])
    assert not command_exists(["migrate", "upp"])
    with pytest.raises(click.UsageError):
        command_exists(["exporter", "--prt", "1"])


@pytest.mark.parametrize("name", SERVICES)
def test_conditions_can_be_met(name: str) -> None:
    for other, depends in SERVICES[name].get("depends_on", {}).items():
        if depends["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert depends["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_every_service_that_stays_is_started_again() -> None:
    once = {name for name, service in SERVICES.items() if service["restart"] != "unless-stopped"}
    assert once == {"migrate", "grants", "cluster-create", *CONSOLES}


def byte_count(size: str) -> int:
    """Of a size as Docker and Redis write it."""
    number, unit = re.fullmatch(r"(\d+)([kmg])b?", size.lower()).groups()  # type: ignore[union-attr]
    return int(number) << {"k": 10, "m": 20, "g": 30}[unit]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_fills_disk_or_memory(name: str) -> None:
    logging = SERVICES[name]["logging"]
    assert logging["driver"] == "json-file"
    assert byte_count(logging["options"]["max-size"]) * int(logging["options"]["max-file"]) <= 100 << 20
    assert 128 << 20 <= byte_count(FILLED[name]["mem_limit"]) <= 2 << 30


@pytest.mark.parametrize("name", [name for name in SERVICES if "configs" in SERVICES[name]])
def test_redis_has_memory_for_a_rewrite_of_its_file(name: str) -> None:
    [config] = SERVICES[name]["configs"]
    for size in re.findall(r"^maxmemory (\S+)$", FILLED_CONFIGS[config["source"]]["content"], re.M):
        assert byte_count(FILLED[name]["mem_limit"]) >= 2 * byte_count(size)


@pytest.mark.parametrize("name", SERVICES)
def test_what_stays_has_a_health_check(name: str) -> None:
    stays = SERVICES[name]["restart"] != "no"
    assert stays <= ("healthcheck" in SERVICES[name])


@pytest.mark.parametrize(
    "name", [name for name in SERVICES if "redis_users" in SERVICES[name].get("secrets", ())]
)
def test_a_server_with_users_is_healthy_where_one_can_log_in(name: str) -> None:
    """PING is answered as the user default where that is on, whatever became of the login."""
    assert SERVICES[name]["healthcheck"]["test"][-1].endswith(
        " redis-cli --user admin acl whoami | grep -qx admin"
    )


@pytest.mark.parametrize("name", SERVICES)
def test_the_database_is_healthy_before_it_is_used(name: str) -> None:
    if name in CONSOLES:
        assert "depends_on" not in SERVICES[name]
    elif "DB_HOST" in SERVICES[name].get("environment", {}):
        assert SERVICES[name]["depends_on"]["postgres"]["condition"] == "service_healthy"


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


@pytest.mark.parametrize("name", ["worker", "worker-cluster", "worker-sentinel"])
def test_a_worker_listens_where_its_health_is_asked(name: str) -> None:
    service = SERVICES[name]
    assert (
        f"http://{service['environment']['RISK_HEALTH_LISTEN']}/readyz" in service["healthcheck"]["test"][-1]
    )


OPS = ROOT / "ops"
PROMETHEUS: dict[str, Any] = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for path in (OPS / "prometheus/rules").glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]


def test_prometheus_scrapes_the_exporter_with_the_rules() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "riskstream"
    [target] = job["static_configs"][0]["targets"]
    assert target == f"exporter:{SERVICES['exporter']['command'][-1]}"
    assert PROMETHEUS["rule_files"] == ["rules/*.yml"]
    assert SERVICES["prometheus"]["volumes"][0] == "./ops/prometheus:/etc/prometheus:ro"


FIRST = ("riskstream status", "riskstream doctor", "riskstream verify")
"""One of them comes first, before anything that a person has to know where to find."""


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    page = (ROOT / "docs/operate/alerts.md").read_text()
    sections = re.findall(r"^## (\w+)$", page, re.M)
    alerts = [rule["alert"] for rule in RULES if "alert" in rule]
    assert sections == alerts
    for rule in (rule for rule in RULES if "alert" in rule):
        assert rule["annotations"]["runbook_url"] == f"docs/operate/alerts.md#{rule['alert'].lower()}"
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        text = page.partition(f"## {rule['alert']}\n")[2].partition("\n## ")[0]
        parts = re.findall(r"^\*\*(\w+)\.\*\*", text, re.M)
        assert parts == ["Symptom", "Meaning", "Look", "Cure"], rule["alert"]
        look = text.partition("**Look.**")[2].partition("**Cure.**")[0]
        first = re.search(r"(?:`|^ {4})([a-z-]+ [a-z]+)", look, re.M)
        assert first is not None and first[1] in FIRST, rule["alert"]


def test_rules_and_dashboards_name_metrics_that_there_are() -> None:
    known = {each.name for each in METRICS} | {f"{each.name}_{end}" for each in METRICS for end in HISTOGRAM}
    texts = [str(rule["expr"]) for rule in RULES]
    for board in BOARDS.values():
        texts += [target["expr"] for target in targets(board) if "expr" in target]
    named = set(re.findall(r"\brisk_\w+", " ".join(texts)))
    assert named <= known
    assert len(named) > 30


HISTOGRAM = ("bucket", "sum", "count")
BOARDS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text()) for path in (OPS / "grafana/dashboards").glob("*.json")
}


def targets(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in board["panels"] for target in panel.get("targets", ())]


def test_dashboards_are_provisioned() -> None:
    """Each is a file where Grafana looks, and asks data sources that are provisioned too."""
    assert set(BOARDS) == {"operations.json", "fleet.json", "trader.json"}
    sources = yaml.safe_load((OPS / "grafana/provisioning/datasources/riskstream.yml").read_text())
    uids = {source["uid"]: source["type"] for source in sources["datasources"]}
    for board in BOARDS.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            assert panel["type"] == "row" or panel["targets"], panel["title"]
        for target in targets(board):
            assert uids[target["datasource"]["uid"]] == target["datasource"]["type"]
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    [provider] = yaml.safe_load((OPS / "grafana/provisioning/dashboards/riskstream.yml").read_text())[
        "providers"
    ]
    mounts = [volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"]]
    assert ["./ops/grafana/dashboards", provider["options"]["path"]] in mounts
    [source] = [source for source in sources["datasources"] if source["type"] == "prometheus"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


@pytest.mark.parametrize("name", ["worker", "worker-cluster", "worker-sentinel"])
def test_a_worker_has_time_to_finish_its_batch(name: str) -> None:
    grace = SERVICES[name]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > Settings().drain_timeout_s


def test_volumes_are_named_and_used() -> None:
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    files = {name for name in used if name.startswith("./")}
    assert used - files == set(COMPOSE["volumes"])
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", sorted(FILLED_CONFIGS.keys() - {"sentinel"}))
def test_redis_keeps_what_it_accepted(name: str) -> None:
    content = COMPOSE["configs"][name]["content"]
    for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert line in content.splitlines()


@pytest.mark.parametrize("name", [name for name in SERVICES if "configs" in SERVICES[name]])
def test_a_server_reads_its_configuration(name: str) -> None:
    """cluster-create, which has one too, is no server."""
    [config] = SERVICES[name]["configs"]
    assert config["source"] in COMPOSE["configs"]
    assert name == "cluster-create" or config["target"] in " ".join(SERVICES[name]["command"])


def test_dockerfile_ends_as_an_ordinary_user_in_exec_form() -> None:
    steps = _dockerfile()
    last = dict(steps)
    assert last["USER"] not in ("root", "0")
    assert max(i for i, (word, _) in enumerate(steps) if word == "USER") > max(
        i for i, (word, _) in enumerate(steps) if word in ("RUN", "COPY")
    )
    entrypoint, command = yaml.safe_load(last["ENTRYPOINT"]), yaml.safe_load(last["CMD"])
    assert entrypoint == ["riskstream"]
    assert command_exists(command)


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
    texts = {"pyproject.toml", "README.md", "LICENSE", "THIRD-PARTY.txt"}
    assert let_in == texts | {"locks", "producer", "worker", "devkit", "db", "ops/redis"}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {each.partition("/")[0] for each in wheel["packages"]} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_procfile_commands_exist() -> None:
    entries = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    # None that ends by itself, as honcho would stop the others then; the worker migrates.
    assert set(entries) == {"worker", "exporter", "dashboard"}
    for command in entries.values():
        program, *words = shlex.split(command)
        assert program == "riskstream"
        assert command_exists(words)
