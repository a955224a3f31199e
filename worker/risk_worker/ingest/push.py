"""`riskstream push`: snapshots from a file or a pipe, through the same producer as a trader's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO, Final, cast

import msgspec
from rich.console import Console
from rich.progress import BarColumn, FileSizeColumn, Progress, TextColumn

from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import ConfigurationError, RiskError
from risk_producer.settings import Settings
from risk_producer.threaded import RiskProducer
from risk_worker.ingest.records import Defaults, Form, SnapshotLines, UnreadableFile

FLUSH_TIMEOUT_S: Final = 2.0
TRY_AGAIN_EVERY_S: Final = 0.05
SHOW_EVERY_LINES: Final = 1_000
INTERRUPTED: Final = 130

_ENDINGS: Final[dict[str, Form]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}


class CannotOpen(RiskError):
    """The file cannot be opened; the message says why."""


def push(
    settings: Settings,
    file: Path,
    *,
    dry_run: bool,
    form: str,
    wait: bool = True,
    defaults: Defaults | None = None,
) -> int:
    """Push the file's snapshots; - is standard input. Returns the exit status.

    0: all lines went through. 1: some did not, each is named on stderr. 130: interrupted.
    form: jsonl, csv, or auto. wait: when there is no room, go on waiting; else stop at that line.
    defaults: what a record means that lacks recorded_at or trading_paused.
    """
    if not dry_run and not settings.persistent:
        raise ConfigurationError(
            "nothing would be sent: ENABLE_PERSISTENCE is false or PERSISTENCE_BACKEND is memory"
        )
    if not dry_run:
        settings.require_redis_url()
    with _opened(file) as stream, Screen(_size(file)) as screen:
        lines = SnapshotLines(stream, _form(file, form), defaults, screen.print)
        result = Result()
        try:
            if dry_run:
                _check(lines, result, screen)
            else:
                _send(settings, lines, result, screen, wait=wait)
        except UnreadableFile as error:
            raise UnreadableFile(f"{_name(file)}: {error}") from None
        screen.print(result.summary(dry_run=dry_run))
    return result.status


@dataclass(slots=True)
class Result:
    """What became of the lines."""

    good: int = 0
    bad: int = 0
    undelivered: int = 0
    """Snapshots for which there was no room, or that did not reach Redis in the end."""
    interrupted: bool = False
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = monotonic()

    @property
    def status(self) -> int:
        """The exit status."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.bad or self.undelivered else 0

    def summary(self, *, dry_run: bool) -> str:
        """One line for the user."""
        seconds = monotonic() - self.began
        rate = f"in {seconds:.1f} s ({self.good / max(seconds, 1e-9):,.0f}/s)"
        if dry_run:
            return f"{self.good:,} good, {self.bad:,} bad {rate}; nothing was sent"
        refused = f", {self.undelivered:,} not accepted" if self.undelivered else ""
        return f"{self.good:,} accepted, {self.bad:,} bad{refused} {rate}"


def _check(lines: SnapshotLines, result: Result, screen: Screen) -> None:
    with _interruptible(result):
        for _ in _good(lines, result, screen):
            result.good += 1


def _send(settings: Settings, lines: SnapshotLines, result: Result, screen: Screen, *, wait: bool) -> None:
    # Whatever traders do: a file's snapshots are neither refused in a hurry nor merged.
    patient = msgspec.structs.replace(settings, on_full="block")
    with RiskProducer.from_settings(patient) as producer:
        with _interruptible(result):
            for number, snapshot in _good(lines, result, screen):
                if not producer.save(snapshot):
                    screen.print(
                        f"line {number}: no room for {settings.save_timeout_s:g} s: {_why(producer)}"
                    )
                    if not wait:
                        screen.print(f"Stopped: nothing from line {number} on was sent.")
                        result.undelivered += 1
                        break
                    screen.print("Waiting for room; Ctrl-C gives up.")
                    waited_s = _save_when_there_is_room(producer, snapshot)
                    screen.print(f"line {number}: going on after {waited_s:.1f} s more")
                result.good += 1
        _deliver(producer, result, screen, wait=wait)


def _save_when_there_is_room(producer: RiskProducer, snapshot: RiskSnapshot) -> float:
    """A pipe wants backpressure, not an error: try until it is taken. Returns how long that took."""
    began = monotonic()
    while not producer.save(snapshot):
        sleep(TRY_AGAIN_EVERY_S)  # RISK_SAVE_TIMEOUT_S may be 0
    return monotonic() - began


def _deliver(producer: RiskProducer, result: Result, screen: Screen, *, wait: bool) -> None:
    """Until Redis has what save() took; what it has not in the end was not accepted after all."""
    with _interruptible(result):
        if producer.flush(FLUSH_TIMEOUT_S):
            return
        if wait and not result.interrupted:
            left = producer.health().buffered
            screen.print(f"{left:,} are not yet in Redis: {_why(producer)}. Waiting; Ctrl-C gives up.")
            while not producer.flush(FLUSH_TIMEOUT_S):
                pass
            return
    producer.close(timeout=0)
    accepted = producer.health().accepted
    result.undelivered += result.good - accepted
    result.good = accepted


def _why(producer: RiskProducer) -> str:
    """Why nothing moves."""
    health = producer.health()
    if health.backend == "memory":
        return f"Redis cannot be used ({health.reason})"
    return "the stream is full; is a worker running?" if health.stream_full else "Redis is slow"


def _good(lines: SnapshotLines, result: Result, screen: Screen) -> Iterator[tuple[int, RiskSnapshot]]:
    """The lines that are snapshots; the others are shown and counted."""
    for count, (number, got) in enumerate(lines):
        if count % SHOW_EVERY_LINES == 0:
            screen.show(lines.bytes_read, result)
        if isinstance(got, RiskSnapshot):
            yield number, got
        else:
            result.bad += 1
            screen.print(f"line {number}: {got}")
    screen.show(lines.bytes_read, result)


@contextlib.contextmanager
def _interruptible(result: Result) -> Iterator[None]:
    """Ctrl-C ends what is inside, and no more than that."""
    try:
        yield
    except KeyboardInterrupt:
        result.interrupted = True


class Screen:
    """stderr: messages, and a progress bar where it is a terminal."""

    def __init__(self, size: int | None) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.fields[shown]}"),
                BarColumn(),
                FileSizeColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=size, shown="")

    def show(self, bytes_read: int, result: Result) -> None:
        """How far it is."""
        if self._progress is not None:
            self._progress.update(
                self._task, completed=bytes_read, shown=f"{result.good:,} good, {result.bad:,} bad"
            )

    def print(self, text: str) -> None:
        """A line for the user."""
        if self._progress is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")

    def __enter__(self) -> Screen:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        if sys.stdin.isatty():
            sys.stderr.write("Reading from the terminal; Ctrl-D ends it.\n")
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise CannotOpen(f"{file}: {error.strerror}") from None
    with stream:
        yield stream


def _size(file: Path) -> int | None:
    """In bytes; None where it cannot be known beforehand."""
    return file.stat().st_size if file.is_file() else None


def _form(file: Path, form: str) -> Form | None:
    return _ENDINGS.get(file.suffix.lower()) if form == "auto" else cast(Form, form)


def _name(file: Path) -> str:
    return "standard input" if str(file) == "-" else str(file)
