"""docs/operate/alerts.md has the table of faults that the tests hold every instrument to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.support.faults import FAULTS, Fault

PAGE = Path(__file__).parents[3] / "docs" / "operate" / "alerts.md"
HEAD = "| Alert | Fault | `riskstream status` | `riskstream doctor` | Log |"


def row(fault: Fault) -> str:
    alerts = " and ".join(f"[{each}](#{each.lower()})" for each in sorted(fault.alerts))
    checks = [
        f"{mark} {each}"
        for mark, which in (("✗", fault.failing), ("!", fault.warned))
        for each in sorted(which)
    ]
    lines = [f"{of}: {text}" for of, text in (("worker", fault.worker), ("exporter", fault.exporter)) if text]
    cells = (alerts, fault.name, code(sorted(fault.problems)), ", ".join(checks), "; ".join(lines))
    return f"| {' | '.join(each or '-' for each in cells)} |"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{each}`" for each in names)


def test_the_page_has_the_table() -> None:
    rows = [row(fault) for fault in FAULTS.values() if fault.name != "none"]
    table = "\n".join([HEAD, "|---|---|---|---|---|", *rows])
    found = re.search(rf"^{re.escape(HEAD)}\n(?:\|.*\n)+", PAGE.read_text(), re.M)
    assert found is not None, f"the page lacks the table:\n{table}"
    assert found[0].rstrip() == table


def test_each_alert_that_the_page_explains_is_caused_by_a_fault() -> None:
    """But for two, which take longer than a test may: their rules are tested by promtool."""
    sections = set(re.findall(r"^## (Risk\w+)$", PAGE.read_text(), re.M))
    caused = {alert for fault in FAULTS.values() for alert in fault.alerts}
    assert sections - caused == {"RiskNotReconciled", "RiskVerifyFails"}
    assert caused <= sections
