"""`riskstream curve --plot, --svg, --png` and `riskstream report`: files, messages, exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from risk_worker.cli import cli
from risk_worker.installation import to_install
from tests.support.database import store_entries
from tests.support.factory import entry, payload

DAY = datetime(2026, 3, 4, tzinfo=UTC)
CURVE = ("--since", "2026-03-04", "--until", "2026-03-05", "--bucket", "10m")
NAME = "<b>$\\frac{$</b> & \u202e"


@pytest.fixture
def url(database_url: str) -> str:
    """A snapshot every ten minutes but for two hours, and a pause of an hour."""
    made = [
        payload(
            NAME,
            n + 1,
            recorded_at=DAY + n * timedelta(minutes=10),
            current_equity=99_000.0 + n % 50,
            trading_paused=60 <= n < 66,
            reason="<script>alert(1)</script>" if n == 60 else "",
        )
        for n in range(144)
        if not 90 <= n < 102
    ]
    store_entries(database_url, *(entry(number, data) for number, data in enumerate(made, start=1)))
    return database_url


def run(url: str, *arguments: str, **more: str) -> Result:
    return CliRunner().invoke(
        cli, arguments, env={"POSTGRES_URL": url, "REDIS_URL": None, "COLUMNS": "100", **more}
    )


def test_pictures_of_a_curve(url: str, tmp_path: Path) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    done = run(url, "curve", NAME, *CURVE, "--svg", str(svg), "--png", str(png), "--plot")
    assert (done.exit_code, done.stderr) == (0, "")
    root = ET.fromstring(svg.read_text())
    assert "<b>$\\frac{$</b> & \\u202e" in [
        each.text for each in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1_440, 780)
    lines = done.stdout.splitlines()
    assert max(map(len, lines[3:-1])) <= 100
    [paused] = [line for line in lines if "paused │" in line]
    [silent] = [line for line in lines if "no snapshot │" in line]
    assert len(paused) < len(silent.rstrip())
    assert "⣿" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_a_picture_of_nothing(url: str, tmp_path: Path) -> None:
    svg = tmp_path / "a.svg"
    done = run(url, "curve", "b", "--svg", str(svg))
    assert (done.exit_code, done.stderr) == (1, "riskstream: nothing is stored of a trader 'b'\n")
    assert not svg.exists()
    done = run(url, "curve", NAME, "--since", "2026-02-01", "--until", "2026-02-02", "--svg", str(svg))
    assert (done.exit_code, done.stderr) == (0, "There is none.\n")
    assert "no snapshot, 2026-02-01" in svg.read_text()


def test_a_file_that_cannot_be_written(url: str, tmp_path: Path) -> None:
    for words in (["curve", NAME, "--svg"], ["curve", NAME, "--png"], ["report", "--html"]):
        for path in (tmp_path / "no" / "x", tmp_path):
            assert run(url, *words, str(path)).exit_code == 2, words
    assert list(tmp_path.iterdir()) == []


def test_links_and_devices_stay_what_they_are(url: str, tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target.svg", tmp_path / "link.svg", tmp_path / "pipe"
    link.symlink_to(target)
    assert run(url, "curve", NAME, *CURVE, "--svg", str(link)).exit_code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("<svg")
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert run(url, "export", "--out", str(pipe), "--format", "csv").exit_code == 0
    out, _ = reader.communicate(timeout=30)
    assert len(out.splitlines()) == 133
    assert pipe.is_fifo()


def test_a_terminal_without_the_characters(url: str) -> None:
    words = [sys.executable, "-m", "risk_worker", "curve", NAME, "--plot"]
    environ = {**os.environ, "POSTGRES_URL": url, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(words, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"set PYTHONIOENCODING=utf-8" in done.stderr


def test_without_matplotlib(url: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('', name='matplotlib')")
    environ = {**os.environ, "POSTGRES_URL": url, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "risk_worker", "curve", NAME, "--png", str(tmp_path / "a.png")]
    done = subprocess.run(words, env=environ, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert done.stderr == f"riskstream: matplotlib is not installed; run: {to_install('plots')}\n"


class TestReport:
    def test_without_redis(self, url: str, tmp_path: Path) -> None:
        html = tmp_path / "r.html"
        done = run(url, "report", "--html", str(html), "--day", "2026-03-04", "--tz", "Europe/Berlin")
        assert done.exit_code == 0
        found = re.fullmatch(
            rf"The report of 2026-03-04 is in {html}: 1 trader, ([\d,]+) bytes\n"
            r"riskstream: the report lacks a proof: .*REDIS_URL.*\n",
            done.stderr,
        )
        assert found is not None
        assert int(found[1].replace(",", "")) == html.stat().st_size
        text = html.read_text()
        assert "Wednesday, 4 March 2026" in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert text.count("<script>") == 1
        assert "11:00:00 to 12:00:00" in text  # of the pause, in Berlin

    def test_reconciled_or_not(self, url: str, redis_url: str, tmp_path: Path) -> None:
        html = tmp_path / "r.html"
        done = run(url, "report", "--html", str(html), REDIS_URL=redis_url)
        assert "✓ Reconciled" in html.read_text() or done.exit_code == 1
        from psycopg import connect

        with connect(url) as db:
            db.execute("UPDATE risk_state SET seq = 1")
        done = run(url, "report", "--html", str(html), REDIS_URL=redis_url)
        assert done.exit_code == 1
        assert "are not reconciled" in done.stderr
        assert "✗ Not reconciled." in html.read_text()

    def test_asked_wrongly(self, url: str, tmp_path: Path) -> None:
        html = tmp_path / "r.html"
        for words in (["--day", "soon"], ["--tz", "Nowhere"], ["--older-than", "x"], ["--day", "2199-12-31"]):
            done = run(url, "report", "--html", str(html), *words)
            assert (done.exit_code, done.stdout) == (2, ""), words
            assert done.stderr.count("\n") == 1
        assert run(url, "report").exit_code == 2
        assert not html.exists()

    def test_without_postgres(self, tmp_path: Path) -> None:
        done = run("postgresql://u:geheim@127.0.0.1:1/d", "report", "--html", str(tmp_path / "r.html"))
        assert done.exit_code == 2
        assert "geheim" not in done.stderr
        assert list(tmp_path.iterdir()) == []
