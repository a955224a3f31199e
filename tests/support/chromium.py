"""A Chromium without a window, asked over a pipe in the protocol of its developer tools."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

PROGRAM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""None: there is none; Debian's package is chromium."""
ANSWER_S: Final = 30.0


class Page:
    """The one page that is open. What it says and asks for is kept."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer. Raises RuntimeError with what Chromium says is wrong."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(
        self, place: Path | str, *, width: int, height: int = 900, dark: bool = False, paper: bool = False
    ) -> None:
        """Open a file or a URL, as on a screen so wide, and wait until it is loaded."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media="print" if paper else "", features=[scheme])
        self.ask("Page.navigate", url=place.as_uri() if isinstance(place, Path) else place)
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is. Raises RuntimeError where it raises."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Press what a selector of CSS finds."""
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for, the page's own left out."""
        asked = [each["params"]["request"] for each in self._of_kind("Network.requestWillBeSent")]
        return [each["url"] for each in asked[1:]]

    @property
    def complaints(self) -> list[str]:
        """What stands on the console, and errors of scripts."""
        return [
            json.dumps(each["params"])
            for each in self.events
            if each.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        ]

    def _of_kind(self, method: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each.get("method") == method]

    def _next(self) -> dict[str, Any]:
        until = monotonic() + ANSWER_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._of], [], [], max(0.0, until - monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium has not answered for {ANSWER_S:g} s")
            read = os.read(self._of, 1 << 20)
            if not read:
                raise RuntimeError("Chromium has ended")
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def chromium() -> Iterator[Page]:
    """Start it, with a folder of its own; it ends with the block."""
    assert PROGRAM is not None
    to_read, to = os.pipe()
    of, of_write = os.pipe()

    def place() -> None:  # in the child: what it reads is 3, what it writes is 4
        high = [os.dup(each) for each in (to_read, of_write)]
        for each, number in zip(high, (3, 4), strict=True):
            os.dup2(each, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [
            *(PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *(
                f"--user-data-dir={folder}",
                "--no-first-run",
                "--disable-background-networking",
                "--hide-scrollbars",
            ),
        ]
        process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
        )
        os.close(to_read)
        os.close(of_write)
        try:
            yield Page(to, of)
        finally:
            os.close(to)  # it ends when its pipe does
            os.close(of)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
