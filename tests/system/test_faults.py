"""Faults caused one after the other on a running system: each instrument names each, and nothing else cries.

The table is in tests/support/faults.py; a real Prometheus evaluates the rules.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from risk_worker.doctor.check import Finding
from risk_worker.doctor.examination import as_json as doctor_as_json
from risk_worker.doctor.examination import as_text
from risk_worker.status.problems import is_well, problems
from risk_worker.status.render import as_json, lines
from tests.support.faults import ENDS, FAULTS, Fault
from tests.support.process import ChildProcess
from tests.support.running import Role, RunningSystem
from tests.support.servers import server_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROLES: tuple[Role, ...] = ("worker", "exporter")
HOLDS_S = 5
"""For so long no other alert fires beside the right ones, by Prometheus' clock: five evaluations."""


@pytest.fixture(scope="module")
def system() -> Iterator[RunningSystem]:
    with server_folder() as folder, RunningSystem(folder) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_each_instrument_names_the_fault_and_nothing_else_cries(name: str, system: RunningSystem) -> None:
    fault = FAULTS[name]
    system.until_well()
    began = system.prometheus.now()
    before = {role: len(system.logged(role)) for role in ROLES}

    def logged(role: Role) -> list[dict[str, Any]]:
        return system.logged(role)[before[role] :]

    with fault.cause(system):
        system.until(lambda: status_names(fault, system), f"{fault.problems or 'no problem'} of status")
        if fault.at_once:
            doctor_names(fault, system.doctor(**fault.environ))
        system.until(lambda: in_log(fault.worker, logged("worker")), f"{fault.worker!r} of the worker's log")
        system.until(
            lambda: in_log(fault.exporter, logged("exporter")), f"{fault.exporter!r} of the exporter's"
        )
        system.until(lambda: fault.ready in system.readyz(), f"{fault.ready!r} of /readyz", 90)
        if not fault.at_once:
            doctor_names(fault, system.doctor(**fault.environ))
        system.until(lambda: alerts_name(fault, system), f"{fault.alerts} of Prometheus", 60)
        fires = system.prometheus.now()
        system.until(lambda: system.prometheus.now() > fires + HOLDS_S, "evaluations of the rules")
        assert status_names(fault, system), "it stays so"
    system.until_well()

    assert system.prometheus.fired(began) == fault.alerts
    known = (*(text for text in (fault.worker, fault.exporter) if text), *fault.also, *ENDS)
    others = [
        f"{role} {each['level']}: {each['message']}{each.get('exception', '')}"
        for role in ROLES
        for each in logged(role)
        if "exception" in each or not any(text in each["message"] for text in known)
    ]
    assert others == [], "\n" + "\n".join(others)


def in_log(text: str, logged: list[dict[str, Any]]) -> bool:
    """Whether a line of the log has the text, where there has to be one."""
    return not text or any(text in each["message"] for each in logged)


def status_names(fault: Fault, system: RunningSystem) -> bool:
    found = system.status(**fault.environ)
    assert is_well(found) is not any(each.serious for each in problems(found))
    names = {each.name for each in problems(found)}
    shown = "\n".join(line.text for line in lines(found))
    right = is_well(found) is (not fault.serious or not fault.problems)
    return names == fault.problems and fault.status in shown and right


def doctor_names(fault: Fault, findings: list[Finding]) -> None:
    text = as_text(findings)
    for level, expected, more in (
        ("failure", fault.failing, fault.may_fail),
        ("warning", fault.warned, set()),
    ):
        found = {f"{each.link} {each.check}" for each in findings if each.level == level}
        assert expected <= found <= expected | more, text
    assert fault.doctor in text, text


def alerts_name(fault: Fault, system: RunningSystem) -> bool:
    firing = system.prometheus.firing()
    assert firing <= fault.alerts, system.prometheus.alerts()
    return firing == fault.alerts


@pytest.mark.parametrize(
    "names",
    [
        ("worker killed", "Postgres stopped"),
        ("Redis frozen", "Postgres frozen"),
        ("Redis is full (maxmemory)", "rights revoked"),
        ("another database behind the namespace", "a table is missing"),
    ],
    ids=" and ".join,
)
def test_two_faults_at_once_are_both_named(names: tuple[str, str], system: RunningSystem) -> None:
    """But for what the other one explains: without Postgres there is no worker."""
    faults = [FAULTS[name] for name in names]
    expected = {each for fault in faults for each in fault.problems}
    if "postgres_away" in expected:
        expected.discard("no_worker")
    system.until_well()
    began = system.prometheus.now()
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.cause(system))
        system.until(lambda: system.problems() == expected, f"the problems {expected}")
        found = json.loads(as_json(system.status()))
        assert found["ok"] is False
        assert {each["name"] for each in found["problems"]} == expected
        assert json.loads(doctor_as_json(system.doctor()))["worst"] == "failure"
        alerts = {each for fault in faults for each in fault.alerts}
        system.until(lambda: system.prometheus.firing() & alerts, f"one of {alerts}", 60)
    system.until_well()
    assert system.prometheus.fired(began) <= alerts


def test_status_watches_faults_that_come_and_go(system: RunningSystem, tmp_path: Path) -> None:
    """Each look is a line of JSON, whatever happens meanwhile."""
    system.until_well()
    command = [sys.executable, "-m", "risk_worker", "status", "--watch", "--json"]
    with ChildProcess(tmp_path / "log", system.environ, command) as watch:

        def seen() -> list[set[str]]:
            looks = [json.loads(line) for line in watch.log.splitlines(keepends=True) if line.endswith("\n")]
            return [{each["name"] for each in look["problems"]} for look in looks]

        def until_shown(problems: set[str]) -> None:
            before = len(seen())
            system.until(lambda: problems in seen()[before:], f"{problems or 'no problem'} on the screen")

        for name in ("Redis stopped", "Postgres stopped", "Redis frozen", "Redis frozen"):
            until_shown(set())
            with FAULTS[name].cause(system):
                until_shown(FAULTS[name].problems)
        until_shown(set())
        assert watch.running


STARTS = (
    "Redis wants a password",
    "Redis is full (maxmemory)",
    "another database behind the namespace",
    "Postgres stopped",
    "Postgres is read-only",
    "a table is missing",
    "rights revoked",
    "the disk of Postgres is full",
)


@pytest.mark.parametrize("name", STARTS)
def test_a_worker_that_starts_during_the_fault_says_why_it_waits_or_ends(
    name: str, system: RunningSystem
) -> None:
    """And all is well once the fault is over, without a hand where it has not ended."""
    fault = FAULTS[name]
    system.until_well()
    with fault.cause(system):
        system.worker.kill()
        before = len(system.logged("worker"))
        system.start_worker()

        def logged() -> list[dict[str, Any]]:
            return [each for each in system.logged("worker")[before:] if "is dead" not in each["message"]]

        system.until(logged, "a line in the log")
        system.until(lambda: system.problems() & (fault.problems | {"no_worker"}), "a problem of status")
    if any(each["level"] == "NO JSON" for each in logged()):  # it ends, and says why as every command does
        assert system.worker.wait(20) != 0
        system.start_worker()
    system.until_well()
    strange = [each for each in logged() if each["level"] == "NO JSON" or "exception" in each]
    assert [each for each in strange if not each["message"].startswith("riskstream: ")] == []
