"""A process that works on command, so that neither its start nor our interpreter is in the measure.

The protocol, in lines on its stdin and stdout: we write how many rows there are; it sends or stores them
all, and answers with a JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

CHECKOUT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0


class Process:
    """Our side: `python -m MODULE ARGUMENTS`. A context manager."""

    def __init__(self, module: str, *arguments: str, environ: Mapping[str, str]) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, **environ},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, rows: int) -> None:
        """There are so many rows: begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rows}\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, float]:
        """Its answer. Raises RuntimeError when it ended instead, or was ended after TIMEOUT_S."""
        assert self._process.stdout is not None
        timer = Timer(TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise RuntimeError(f"{self._module} ended, or did not answer within {TIMEOUT_S:.0f} s")
        answer: dict[str, float] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()  # closes its stdin, which ends it


def serve(work: Callable[[int], int], exchanged: Callable[[], int] = lambda: 0) -> None:
    """Its side: work(rows) answers how many there were, exchanged() the bytes of its connections so far."""
    for line in sys.stdin:
        rows, before = int(line), exchanged()
        if (done := work(rows)) != rows:
            raise RuntimeError(f"{done} rows of {rows}")
        print(json.dumps({"bytes": exchanged() - before}), flush=True)
