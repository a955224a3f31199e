"""The example of docs/operate/kubernetes.md fits the program and itself. It is read here, and not run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from risk_producer.settings import Settings
from tests.support.deploy import ROOT, command_exists, make_secrets

PAGE = (ROOT / "docs/operate/kubernetes.md").read_text()
[EXAMPLE] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
ITEMS: dict[tuple[str, str], dict[str, Any]] = {
    (item["kind"], item["metadata"]["name"]): item for item in EXAMPLE["items"]
}
PODS: dict[str, dict[str, Any]] = {
    name: item["spec"]["template"]["spec"]
    for (kind, name), item in ITEMS.items()
    if kind in ("Job", "Deployment")
}
MOUNTED = "/run/secrets/riskstream/"
VERSIONS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Job": "batch/v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


CONTAINERS = [(pod, each) for pod in PODS.values() for each in containers(pod)]
EACH = pytest.mark.parametrize(("pod", "container"), CONTAINERS, ids=[each["name"] for _, each in CONTAINERS])


def environment(container: dict[str, Any]) -> dict[str, str]:
    own = {each["name"]: each["value"] for each in container["env"]}
    shared: dict[str, str] = {}
    for source in container["envFrom"]:
        shared |= ITEMS["ConfigMap", source["configMapRef"]["name"]]["data"]
    assert not own.keys() & shared.keys()
    return {**shared, **own}


def test_the_page_says_that_it_was_not_run() -> None:
    assert "**It has not been run.**" in PAGE


def test_what_there_is() -> None:
    assert {kind: item["apiVersion"] for (kind, _), item in ITEMS.items()} == VERSIONS
    assert [each["name"] for _, each in CONTAINERS] == ["migrate", "grants", "worker", "exporter", "console"]


@EACH
def test_a_container_runs_a_command_that_there_is(pod: dict[str, Any], container: dict[str, Any]) -> None:
    if container["name"] == "console":
        assert container["command"] == ["sleep", "infinity"], "commands are run in it by hand"
        assert "args" not in container
    else:
        assert all(isinstance(word, str) for word in container["args"])
        assert command_exists(container["args"])
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert container["image"].endswith(f"/riskstream:{version}")
    assert "memory" in container["resources"]["limits"]


@EACH
def test_its_settings_load_and_its_secrets_are_files(
    pod: dict[str, Any], container: dict[str, Any], tmp_path: Path
) -> None:
    make_secrets(tmp_path, {})
    environ = environment(container)
    assert all(isinstance(value, str) for value in environ.values())
    assert environ.keys() <= Settings.variables()
    files = {value.removeprefix(MOUNTED) for name, value in environ.items() if name.endswith("_FILE")}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    given = {item["path"]: item["key"] for item in volumes["secrets"]["secret"]["items"]}
    assert given.keys() == files == set(given.values())
    assert files <= {path.name for path in tmp_path.iterdir()}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"secrets": MOUNTED.removesuffix("/"), "tmp": "/tmp"}
    assert mounts.keys() == volumes.keys()
    settings = Settings.load({k: v.replace(MOUNTED, f"{tmp_path}/") for k, v in environ.items()})
    users = {"worker": "risk_worker", "exporter": "risk_monitor", "console": "risk_console"}
    assert f"//{users.get(container['name'], 'risk_migrate')}:" in settings.require_database_url()


@EACH
def test_it_may_do_little(pod: dict[str, Any], container: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}\n" in dockerfile
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for volume in pod["volumes"]:
        assert volume.get("secret", {}).get("defaultMode", 0o440) == 0o440


@EACH
def test_probes_ask_what_it_serves(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Being alive is a matter of the process; only a worker's being ready is that of the system."""
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    probes = {kind: each["httpGet"] for kind, each in container.items() if kind.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == ports.keys()
    paths = {kind: probe["path"] for kind, probe in probes.items()}
    if container["name"] == "worker":
        assert environment(container)["RISK_HEALTH_LISTEN"] == f"0.0.0.0:{ports['health']}"
        assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        assert pod["terminationGracePeriodSeconds"] > Settings().drain_timeout_s
    elif container["name"] == "exporter":
        assert container["args"][-1] == str(ports["metrics"])
        assert paths == {"livenessProbe": "/healthz", "readinessProbe": "/healthz"}


def test_the_secret_is_made_of_what_the_pods_read_and_no_more() -> None:
    named = re.findall(r"--from-file=(\S+)", PAGE)
    read = {
        item["key"]
        for pod in PODS.values()
        for volume in pod["volumes"]
        for item in volume.get("secret", {}).get("items", [])
    }
    assert sorted(named) == sorted(read)


def test_selectors_find_their_pods() -> None:
    labels = {
        name: item["spec"]["template"]["metadata"]["labels"]
        for (kind, name), item in ITEMS.items()
        if kind == "Deployment"
    }
    for name, of in labels.items():
        assert ITEMS["Deployment", name]["spec"]["selector"] == {"matchLabels": of}
    budget = ITEMS["PodDisruptionBudget", "riskstream-worker"]["spec"]["selector"]
    assert budget == {"matchLabels": labels["riskstream-worker"]}
    service = ITEMS["Service", "riskstream-exporter"]["spec"]
    assert service["selector"] == labels["riskstream-exporter"]
    [port] = service["ports"]
    [container] = PODS["riskstream-exporter"]["containers"]
    assert port["targetPort"] in [each["name"] for each in container["ports"]]
