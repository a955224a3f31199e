"""`honcho start` runs the Procfile as it stands, until it is stopped."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.process import ChildProcess, processes_of
from tests.support.wait import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_what_it_starts_stays_until_it_is_stopped(tmp_path: Path, environ: dict[str, str]) -> None:
    # The usual ports may be taken on this machine.
    text = re.sub(r"(exporter|dashboard)$", r"\1 --port 0", (ROOT / "Procfile").read_text(), flags=re.M)
    (tmp_path / "Procfile").write_text(text)
    programs = Path(sys.executable).parent
    command: list[str | Path] = [programs / "honcho", "--no-colour", "--app-root", tmp_path, "start"]
    ours = {**environ, "PATH": f"{programs}:/usr/bin:/bin", "PROCFILE_OF": str(tmp_path)}
    with ChildProcess(tmp_path / "log", ours, command) as honcho:
        wait_until(
            lambda: honcho.log.count("Serving http") == 2 and "The worker is ready" in honcho.log,
            30,
            "all three to be ready",
        )
        assert honcho.running
        assert "stopped" not in honcho.log
        honcho.signal(signal.SIGTERM)
        honcho.wait(30)
        assert "Traceback" not in honcho.log
    assert processes_of(tmp_path) == []
