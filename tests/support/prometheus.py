"""A real Prometheus on a free port, with the project's rules made quicker."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from risk_devkit.embedded import free_port
from tests.support.debian import PROGRAMS
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

OPS = Path(__file__).parents[2] / "ops" / "prometheus"

SCRAPE_S = 3
"""Longer than the exporter takes to say that Redis does not answer (2 s)."""
QUICKER = (
    (r"for: 30s\b", "for: 5s"),  # longer than from one scrape to the next: one of them is no fault
    (r"for: 1m\b", "for: 15s"),  # as long as a worker may take to drain again after Redis was emptied
    (r"\[1m\]", "[15s]"),
    (r"\[15m\]", "[20s]"),
    (r"risk_partition_stalled_seconds > 60", "risk_partition_stalled_seconds > 20"),
    (r"_timestamp_seconds > 900", "_timestamp_seconds > 30"),
)
"""What is rewritten, so that a test need not wait for minutes; each has to be there."""


def quicker_rules() -> str:
    text = (OPS / "rules" / "riskstream.yml").read_text()
    for pattern, quick in QUICKER:
        text, count = re.subn(pattern, quick, text)
        assert count, f"no rule has {pattern}"
    return text


class Prometheus:
    """Scrapes one exporter; a context manager."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._target = target
        self._port = free_port()
        self._process: ChildProcess | None = None

    def __enter__(self) -> Prometheus:
        (self._folder / "rules").mkdir(parents=True)
        (self._folder / "rules" / "riskstream.yml").write_text(quicker_rules())
        text = (OPS / "prometheus.yml").read_text()
        for pattern, value in (
            (r"scrape_interval: \S+", f"scrape_interval: {SCRAPE_S}s"),
            (r"scrape_timeout: \S+", f"scrape_timeout: {SCRAPE_S}s"),
            (r"evaluation_interval: \S+", "evaluation_interval: 1s"),
            (r"exporter:9400", self._target),
        ):
            text, count = re.subn(pattern, value, text)
            assert count == 1, pattern
        config = self._folder / "prometheus.yml"
        config.write_text(text)
        command: list[str | Path] = [PROGRAMS["prometheus"], f"--config.file={config}"]
        command += [
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process = ChildProcess(self._folder / "prometheus.log", {}, command).start()
        wait_until(self._is_ready, 30, "Prometheus")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.running:
            self._process.stop()

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.running, self._process and self._process.log
        try:
            return bool(self.query("vector(1)"))
        except OSError:
            return False

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def alerts(self) -> list[dict[str, Any]]:
        """Those that fire or are pending, as Prometheus has them."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def now(self) -> float:
        """Its time: seconds since 1970."""
        return self.number("vector(time())")

    def fired(self, since: float) -> set[str]:
        """Names of the alerts that fired at any time after that moment."""
        seconds = int(self.now() - since)
        samples = self.query(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')
        return {each["metric"]["alertname"] for each in samples}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now. Raises OSError (HTTPError where it is no expression)."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def number(self, expression: str) -> float:
        """Of an expression with one sample."""
        [sample] = self.query(expression)
        return float(sample["value"][1])

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]
