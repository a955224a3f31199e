"""The tests mirror the code: what tests a module is found by its name, or is named here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TESTS = ROOT / "tests"
MODULES = sorted(
    path.relative_to(ROOT / source)
    for source in ("producer", "worker", "devkit")
    for path in (ROOT / source).rglob("*.py")
    if path.name != "__init__.py"
)

ELSEWHERE = {
    "risk_producer/base.py": "unit/risk_producer/test_producer.py",
    "risk_producer/contract/metric.py": "unit/risk_worker/monitor/test_exporter.py",
    "risk_producer/contract/identity.py": "integration/runtime/test_deployments.py",
    "risk_producer/contract/rejected.py": "unit/risk_producer/contract/test_snapshot.py",
    "risk_producer/contract/scripts.py": "integration/stream/test_scripts.py",
    "risk_producer/errors.py": "unit/risk_producer/test_producer.py",
    "risk_producer/flusher.py": "unit/risk_producer/session/test_conservation.py",
    "risk_producer/item.py": "property/test_buffer.py",
    "risk_producer/load/postgres.py": "integration/producer/test_load_postgres.py",
    "risk_producer/load/sources.py": "integration/producer/test_conformance.py",
    "risk_producer/metrics.py": "integration/producer/test_conformance.py",
    "risk_producer/process.py": "unit/risk_producer/test_reentry.py",
    "risk_producer/pytest_plugin.py": "unit/risk_producer/test_testing.py",
    "risk_producer/session/counts.py": "unit/risk_producer/session/test_conservation.py",
    "risk_producer/session/health.py": "unit/risk_producer/test_partitions_away.py",
    "risk_producer/session/local.py": "integration/producer/test_conformance.py",
    "risk_producer/session/options.py": "unit/risk_producer/settings/test_settings.py",
    "risk_producer/session/sender.py": "property/test_buffer.py",
    "risk_producer/session/session.py": "property/test_divide.py",
    "risk_producer/session/waiters.py": "unit/risk_producer/test_aio.py",
    "risk_producer/settings/declare.py": "unit/risk_producer/settings/test_settings.py",
    "risk_producer/settings/fields.py": "unit/risk_producer/settings/test_settings.py",
    "risk_producer/settings/pairs.py": "unit/risk_producer/settings/test_settings.py",
    "risk_producer/threaded.py": "unit/risk_producer/test_producer.py",
    "risk_producer/transport/redis.py": "unit/risk_producer/test_hosts.py",
    "risk_producer/transport/requests.py": "unit/risk_worker/stream/test_messages.py",
    "risk_worker/__main__.py": "unit/project/test_extras.py",
    "risk_worker/audit/accept.py": "integration/audit/test_known_loss.py",
    "risk_worker/audit/render.py": "unit/risk_worker/audit/test_reconcile.py",
    "risk_worker/cli/audit.py": "integration/audit/test_verify.py",
    "risk_worker/cli/dead.py": "integration/dead_letters/test_dead_letters.py",
    "risk_worker/cli/grants.py": "integration/database/test_grants.py",
    "risk_worker/cli/migrate.py": "integration/database/test_migrations.py",
    "risk_worker/cli/options.py": "integration/cli/test_output.py",
    "risk_worker/cli/original.py": "integration/ingest/test_original.py",
    "risk_worker/cli/partitions.py": "integration/recovery/test_partitioning.py",
    "risk_worker/cli/push.py": "integration/ingest/test_push.py",
    "risk_worker/cli/query.py": "integration/query/test_commands.py",
    "risk_worker/cli/rebind.py": "integration/runtime/test_deployments.py",
    "risk_worker/cli/repair.py": "integration/faults/test_fields.py",
    "risk_worker/cli/report.py": "integration/report/test_commands.py",
    "risk_worker/cli/retain.py": "integration/timescale/test_retention.py",
    "risk_worker/cli/seal.py": "integration/seal/test_commands.py",
    "risk_worker/cli/serve.py": "integration/monitor/test_exporter.py",
    "risk_worker/cli/timescale.py": "integration/timescale/test_enable.py",
    "risk_worker/cli/traders.py": "integration/recovery/test_assignment.py",
    "risk_worker/database/connection.py": "integration/faults/test_database_errors.py",
    "risk_worker/database/deployment.py": "integration/runtime/test_deployments.py",
    "risk_worker/database/extension.py": "integration/timescale/test_enable.py",
    "risk_worker/database/owner.py": "integration/recovery/test_floors.py",
    "risk_worker/database/reader.py": "integration/dead_letters/test_dead_letters.py",
    "risk_worker/database/stores.py": "integration/database/test_store.py",
    "risk_worker/dead_letters/render.py": "integration/dead_letters/test_dead_letters.py",
    "risk_worker/dead_letters/retry.py": "integration/dead_letters/test_dead_letters.py",
    "risk_worker/dead_letters/select.py": "integration/dead_letters/test_dead_letters.py",
    "risk_worker/drain/errors.py": "unit/risk_worker/drain/test_drain.py",
    "risk_worker/drain/loop.py": "unit/risk_worker/drain/test_drain.py",
    "risk_worker/drain/ports.py": "unit/risk_worker/drain/test_drain.py",
    "risk_worker/drain/prefetch.py": "integration/faults/test_crash_points.py",
    "risk_worker/drain/uncommitted.py": "unit/risk_worker/drain/test_drain.py",
    "risk_worker/ingest/plain_json.py": "property/test_records.py",
    "risk_worker/monitor/catalogue.py": "unit/risk_worker/monitor/test_exporter.py",
    "risk_worker/monitor/page.py": "unit/risk_worker/monitor/test_exporter.py",
    "risk_worker/picture/ask.py": "integration/report/test_commands.py",
    "risk_worker/picture/png.py": "integration/report/test_commands.py",
    "risk_worker/picture/words.py": "unit/risk_worker/picture/test_svg.py",
    "risk_worker/query/files.py": "integration/query/test_commands.py",
    "risk_worker/query/frames.py": "unit/risk_worker/query/test_formats.py",
    "risk_worker/query/reader.py": "integration/query/test_questions.py",
    "risk_worker/recovery/rebind.py": "integration/runtime/test_deployments.py",
    "risk_worker/recovery/repair.py": "integration/faults/test_fields.py",
    "risk_worker/report/cards.py": "unit/risk_worker/report/test_page.py",
    "risk_worker/report/cells.py": "unit/risk_worker/report/test_page.py",
    "risk_worker/report/chart.py": "unit/risk_worker/report/test_page.py",
    "risk_worker/report/proof.py": "unit/risk_worker/report/test_page.py",
    "risk_worker/report/tables.py": "unit/risk_worker/report/test_page.py",
    "risk_worker/runtime/connected.py": "integration/runtime/test_logs.py",
    "risk_worker/runtime/dashboard/shown.py": "integration/dashboard/test_guard.py",
    "risk_worker/runtime/retention.py": "integration/timescale/test_retention.py",
    "risk_worker/runtime/sealing.py": "integration/seal/test_commands.py",
    "risk_worker/seal/drops.py": "integration/dead_letters/test_drop.py",
    "risk_worker/seal/chain.py": "integration/seal/test_sealer.py",
    "risk_worker/seal/render.py": "integration/seal/test_attacks.py",
    "risk_worker/seal/verify.py": "integration/seal/test_attacks.py",
    "risk_worker/web/pages.py": "unit/risk_worker/monitor/test_exporter.py",
    "risk_worker/stream/permissions.py": "integration/stream/test_users.py",
    "risk_worker/stream/acknowledgement.py": "unit/risk_worker/stream/test_messages.py",
    "risk_worker/stream/bindings.py": "integration/runtime/test_deployments.py",
    "risk_worker/cli/doctor.py": "integration/status/test_look.py",
    "risk_worker/cli/status.py": "integration/status/test_look.py",
    "risk_worker/database/privileges.py": "integration/status/test_look.py",
    "risk_worker/doctor/of_postgres.py": "integration/status/test_look.py",
    "risk_worker/doctor/of_redis.py": "unit/risk_worker/doctor/test_examination.py",
    "risk_worker/doctor/of_settings.py": "unit/risk_worker/doctor/test_examination.py",
    "risk_worker/status/model.py": "unit/risk_worker/status/test_problems.py",
    "risk_worker/status/of_postgres.py": "integration/status/test_look.py",
    "risk_worker/status/of_redis.py": "integration/status/test_look.py",
    "risk_worker/stream/follow.py": "integration/status/test_tail.py",
    "risk_worker/stream/clocks.py": "integration/faults/test_clocks.py",
    "risk_worker/stream/counters.py": "unit/risk_worker/stream/test_progress.py",
    "risk_worker/stream/epochs.py": "unit/risk_worker/stream/test_source.py",
    "risk_worker/timescale/policies.py": "integration/timescale/test_enable.py",
    "risk_worker/timescale/render.py": "integration/timescale/test_enable.py",
    "risk_worker/timescale/status.py": "integration/timescale/test_enable.py",
    "risk_devkit/children.py": "acceptance/test_up.py",
    "risk_devkit/command.py": "acceptance/test_demo.py",
    "risk_devkit/traders.py": "acceptance/test_demo.py",
}
"""Module without a file of tests by its name -> where it is tested."""


def by_name(module: Path) -> list[Path]:
    """The files of tests that have the module's name: in its folder of tests/unit, among the properties, or
    in the folder of tests/integration that has the name of its folder."""
    name = f"test_{module.stem}.py"
    folders = [TESTS / "unit" / module.parent, TESTS / "property"]
    folders.append(TESTS / "integration" / module.parent.name.removeprefix("risk_"))
    return [folder / name for folder in folders if (folder / name).exists()]


def test_every_module_has_its_tests() -> None:
    missing = [str(module) for module in MODULES if not by_name(module) and str(module) not in ELSEWHERE]
    assert missing == [], "give each a file test_NAME.py, or a line of ELSEWHERE"


def test_what_is_named_here_has_no_tests_by_its_name_and_is_tested_where_it_says() -> None:
    assert [name for name in ELSEWHERE if Path(name) not in MODULES or by_name(Path(name))] == []
    assert [where for where in ELSEWHERE.values() if not (TESTS / where).exists()] == []


def test_the_folders_of_unit_tests_are_those_of_the_code() -> None:
    folders = {path.parent.relative_to(TESTS / "unit") for path in (TESTS / "unit").rglob("test_*.py")}
    code = {module.parent for module in MODULES}
    assert folders - code == {Path("project"), Path("benchmarks")}


def test_properties_are_in_their_tier() -> None:
    """hypothesis takes long to be imported, and has its number of examples from tests/property."""
    found = [
        path
        for path in (TESTS / "unit").rglob("*.py")
        if re.search(r"^(import|from) hypothesis", path.read_text(), re.M)
    ]
    assert found == []


README = (TESTS / "README.md").read_text()
TABLE = README.partition("## To test a new")[2].partition("\n## ")[0].replace("tests/", "")
PATHS = sorted({path for path in re.findall(r"\b[a-z_]+/[\w/.]*\w", TABLE) if not path.startswith("docs/")})


@pytest.mark.parametrize("path", PATHS)
def test_what_there_is_to_copy_exists(path: str) -> None:
    assert (TESTS / path).exists()


def test_the_fixtures_to_ask_for_exist() -> None:
    """Those in backticks; a row names the file of one that is no fixture of all."""
    fixtures = "".join(path.read_text() for path in TESTS.rglob("conftest.py"))
    for row in (line for line in TABLE.splitlines() if line.startswith("| ")):
        beside = "".join((TESTS / path).read_text() for path in re.findall(r"\b[a-z_]+/[\w/]+\.py", row))
        for name in re.findall(r"`(\w+)(?:\(\))?`", row):
            if name.startswith("RISK_TEST_") or name == "monkeypatch":
                continue
            assert re.search(rf"\b(?:def|class) {name}\b", fixtures + beside), (name, row)
