"""What is measured with TimescaleDB says so where there is none."""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime

import pytest

from benchmarks import hypertables
from benchmarks.rows import TRADERS
from benchmarks.timescale import COMPRESSED_FROM, COMPRESSED_SPAN, VARIABLE
from risk_producer.contract import wire


@pytest.mark.parametrize("module", ["benchmarks.hypertables", "benchmarks.aggregates"])
def test_without_a_server_nothing_is_measured_and_that_is_said(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", [module])
    sys.modules.pop(module, None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing is measured: no package brings TimescaleDB along" in said
    assert f"neither --url nor {VARIABLE} names a server that has it" in said


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 150, 250), (1.0, 2000, 2000)])
def test_a_share_of_the_rows_is_late_all_over_the_compressed_chunks(
    share: float, least: int, most: int
) -> None:
    rows = [wire.decode(payload) for payload in hypertables.payloads(2_000, share)]
    now = datetime.now(UTC)
    late = [row for row in rows if now - row.recorded_at > COMPRESSED_FROM - COMPRESSED_SPAN]
    assert least <= len(late) <= most
    if share:
        ages = [now - row.recorded_at for row in late]
        assert max(ages) - min(ages) > COMPRESSED_SPAN * 0.9
    assert [row.seq for row in rows] == [number // TRADERS + 1 for number in range(2_000)]
