"""`riskstream demo`: everything on this machine, a worker killed half-way, the reconciliation.

Embedded servers, traders in processes of their own, one worker, rq-dashboard. Everything that was started
is stopped at the end, on Ctrl-C and on failure. The data stays in the folder; a later run adds to it.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, NoReturn, cast

import msgspec
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from risk_devkit import embedded
from risk_devkit.children import Child, environment, exports, interruptible, is_free
from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey, FolderInUse
from risk_devkit.meter import CounterSample, Meter
from risk_devkit.traders import TradersReport
from risk_producer.contract.counters import STORED
from risk_producer.contract.keys import Keys
from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import redis_client
from risk_worker.audit import render
from risk_worker.audit.ledger import EpochKey
from risk_worker.audit.reconcile import EpochReport, Report
from risk_worker.audit.verify import verify
from risk_worker.database import connection as database
from risk_worker.database import migrations
from risk_worker.installation import command, shown

DATA: Final = Path(".riskstream/demo")
PROCESSES_MAX: Final = 8
DASHBOARD_PORT: Final = 9181
DEAD_FOR_S: Final = 1.0  # how long no worker runs, so that one can see the stream fill
FIRST_ROW_TIMEOUT_S: Final = 60.0
TRADERS_TIMEOUT_S: Final = 45.0  # to deliver what they hold, after their time is over
DRAIN_TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2
LINE_EVERY_S: Final = 1.0  # where there is no terminal
LISTED_MAX: Final = 20  # traders in the reconciliation; of more, only the sum

_SQL: Final = statements(__package__, "demo.sql")


class DemoFailed(RiskError):
    """Something did not do its part; the message says what, and what its log says."""


def run(
    *,
    seconds: float,
    traders: int,
    rate: float,
    kill: bool,
    dashboard: bool,
    data: Path,
    keep: bool = False,
) -> int:
    """Run the demo. Returns the exit status: 0 if it is reconciled, 1 if not, 130 when interrupted."""
    screen = Screen(Console())
    with interruptible() as ignore_signals:
        stack = ExitStack()
        try:
            play = Demo(screen, stack, data.absolute(), seconds=seconds, traders=traders, rate=rate)
            return play.run(kill=kill, dashboard=dashboard, keep=keep)
        except KeyboardInterrupt:
            screen.print("Interrupted: stopping everything.")
            return 130
        finally:
            ignore_signals()  # a second Ctrl-C must not leave half of it running
            stack.close()


class Demo:
    """One run. What it starts is stopped by closing the stack."""

    def __init__(
        self,
        screen: Screen,
        stack: ExitStack,
        data: Path,
        *,
        seconds: float,
        traders: int,
        rate: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._screen = screen
        self._stack = stack
        self._data = data
        self._seconds = seconds
        self._names = [f"trader-{number}" for number in range(1, traders + 1)]
        self._rate = rate
        self._workers = 0
        self._clock = clock
        self._began = clock()

    def run(self, *, kill: bool, dashboard: bool, keep: bool) -> int:
        """From the first server to the reconciliation."""
        self._start_servers()
        dashboard_url = self._start_dashboard() if dashboard else None
        worker = self._start_worker()
        traders = self._start_traders()
        with self._screen.live():
            if kill:
                first_row = "the worker stores the first snapshots"
                self._watch(lambda: self._sample.stored > 0, worker, FIRST_ROW_TIMEOUT_S, first_row)
                half_s = self._seconds / 2
                self._watch(self._half_over, worker, half_s + 5, "half of the time is over")
                worker = self._kill_and_restart(worker)
            reports = self._wait_for(traders, worker)
            rest = "the worker has stored what is left in Redis"
            self._watch(lambda: self._sample.in_flight == 0, worker, DRAIN_TIMEOUT_S, rest)
        self._screen.print("Comparing what was accepted with what is stored ...")
        reconciled = self._show_reconciliation(reports)
        self._draw_equity(self._show_pauses() or self._names[0])
        self._show_next_steps(dashboard_url, keep)
        if keep:
            with contextlib.suppress(KeyboardInterrupt):
                self._keep(worker)
        return 0 if reconciled else 1

    def _start_servers(self) -> None:
        first = "" if self._data.exists() else ", for the first time, which takes some seconds"
        self._screen.print(f"Starting Valkey and Postgres in {shown(self._data)}{first} ...")
        try:
            valkey = self._stack.enter_context(EmbeddedValkey(self._data / "valkey"))
        except FolderInUse as error:
            raise DemoFailed(f"{error}. Is it a demo with --keep? --data names another folder.") from None
        postgres = self._stack.enter_context(EmbeddedPostgres(self._data / "postgres", database="risk"))
        self._redis_url, self._database_url = valkey.url, postgres.url
        self._screen.print("Making the tables, where they are not there yet ...")
        migrations.up(self._database_url)
        self._client = self._stack.enter_context(
            redis_client(self._redis_url, answer_timeout_s=5, connect_timeout_s=5, retries=10)
        )
        self._meter = Meter(self._client)
        self._sample = self._meter.read()
        self._screen.print(f"  Valkey    {self._redis_url}\n  Postgres  {self._database_url}")

    def _start_dashboard(self) -> str:
        port = DASHBOARD_PORT if is_free(DASHBOARD_PORT) else embedded.free_port()
        self._start("dashboard", ["risk_worker", "dashboard", "--port", str(port)])
        url = f"http://127.0.0.1:{port}"
        self._screen.print(f"  Dashboard {url}")
        return url

    def _start_worker(self) -> Child:
        self._workers += 1
        return self._start(f"worker-{self._workers}", ["risk_worker", "worker"])

    def _start_traders(self) -> list[Child]:
        processes = min(len(self._names), PROCESSES_MAX)
        self._began = self._clock()
        self._screen.print(
            f"{len(self._names)} traders in {processes} processes, {self._rate:g} snapshots/s in all, "
            f"for {self._seconds:g} s; one worker.\n"
        )
        children = []
        for number in range(processes):
            names = self._names[number::processes]
            rate = self._rate * len(names) / len(self._names)
            options = ["--rate", f"{rate:.6f}", "--seconds", f"{self._seconds}"]
            children.append(self._start(f"traders-{number + 1}", ["risk_devkit.traders", *names, *options]))
        return children

    def _start(self, name: str, module: list[str]) -> Child:
        log = self._data / "logs" / f"{name}.log"
        child = Child(
            name, module, environment(self._redis_url, self._database_url, dashboard=name == "dashboard"), log
        )
        self._stack.callback(child.stop)
        return child

    def _half_over(self) -> bool:
        return self._clock() - self._began >= self._seconds / 2

    def _kill_and_restart(self, worker: Child) -> Child:
        worker.kill()
        self._screen.print(f"Worker {worker.pid} killed with SIGKILL. The traders go on; the stream fills.")
        killed = self._clock()
        dead_for = f"{DEAD_FOR_S:g} s without a worker are over"
        self._watch(lambda: self._clock() - killed >= DEAD_FOR_S, None, DEAD_FOR_S + 5, dead_for)
        waiting = self._sample.in_flight
        if entry := self._oldest_entry():
            self._screen.print(f"{waiting:,} wait in Redis. The oldest: {entry}")
        stored = self._sample.stored
        restarted = self._clock()
        worker = self._start_worker()
        again = f"worker {worker.pid} stores again"
        self._watch(lambda: self._sample.stored > stored, worker, FIRST_ROW_TIMEOUT_S, again)
        took_s = self._clock() - restarted
        self._screen.print(f"Worker {worker.pid} stores again, {took_s:.1f} s after it was started.")
        return worker

    def _oldest_entry(self) -> str:
        entries = cast(list[Any], self._client.xrange(Keys(0).snapshots, count=1))
        return entries[0][1].get(b"s", b"").decode(errors="replace") if entries else ""

    def _wait_for(self, traders: list[Child], worker: Child) -> list[TradersReport]:
        left_s = self._began + self._seconds - self._clock()

        def over() -> bool:
            return not any(child.running for child in traders)

        self._watch(over, worker, left_s + TRADERS_TIMEOUT_S, "the traders have ended")
        return [_report(child) for child in traders]

    def _watch(
        self, until: Callable[[], bool], worker: Child | None, timeout_s: float, waits_until: str
    ) -> None:
        """Show how things stand, and what is waited for, until a condition holds. Raises DemoFailed."""
        deadline = self._clock() + timeout_s
        while True:
            self._sample = self._meter.read()
            elapsed_s = self._clock() - self._began
            pid = worker.pid if worker else None
            self._screen.show(self._sample, elapsed_s, self._seconds, pid, waits_until)
            if until():
                return
            if worker is not None and not worker.running:
                raise DemoFailed(f"the worker ended by itself; its log says:\n{worker.log_tail()}")
            if self._clock() > deadline:
                log = f"; the worker's log says:\n{worker.log_tail()}" if worker else ""
                raise DemoFailed(f"waited {timeout_s:.0f} s in vain until {waits_until}{log}")
            sleep(LOOK_EVERY_S)

    def _keep(self, worker: Child) -> NoReturn:
        """Until Ctrl-C: with the worker, and without it when the user stops it to see the stream fill."""
        while worker.running:
            sleep(LOOK_EVERY_S)
        worker.stop()  # its pid may soon be another's
        self._screen.print(
            f"Worker {worker.pid} has ended, the rest keeps running. To start another: "
            f"REDIS_URL={self._redis_url} POSTGRES_URL={self._database_url} {command()} worker"
        )
        while True:
            sleep(LOOK_EVERY_S)

    def _show_reconciliation(self, reports: list[TradersReport]) -> bool:
        """What `riskstream verify` finds, beside what the traders counted. Returns whether all is well."""
        accepted_by_name = {name: count for report in reports for name, count in report.accepted.items()}
        accepted: dict[EpochKey, int] = {}
        for name, epoch in zip(self._names, self._epochs(), strict=True):
            if epoch is not None or accepted_by_name[name]:
                accepted[name, epoch or 0] = accepted_by_name[name]
        found = verify(Settings(redis_url=self._redis_url, postgres_url=self._database_url))
        problems = found.problems + _differences(accepted, found)
        if not all(report.delivered for report in reports):
            problems.append("a trader could not deliver all that it had accepted")
        mine = [epoch for epoch in found.epochs if (epoch.trader_id, epoch.epoch) in accepted]
        self._screen.print(_table(mine))
        sample = self._sample
        if rejected := sum(report.rejected for report in reports):
            self._screen.print(
                f"{rejected:,} were rejected for want of room, and save() returned False for them."
            )
        if sample.duplicates:
            self._screen.print(
                f"{sample.duplicates:,} reached the database more than once and were stored once."
            )
        earlier = found.totals[STORED] - sum(epoch.stored for epoch in mine)
        if earlier:
            self._screen.print(f"{earlier:,} rows of earlier runs are there as well, and were checked again.")
        for problem in problems:
            self._screen.print(Text(f"✗ {problem}", style="bold red"))
        style = "bold red" if problems else "bold green"
        self._screen.print(Text(render.conclusion(reconciled=not problems), style=style))
        return not problems

    def _epochs(self) -> list[int | None]:
        found = cast(list[bytes | None], self._client.hmget(Keys(0).epochs, self._names))
        return [None if epoch is None else int(epoch) for epoch in found]

    def _show_pauses(self) -> str | None:
        """What history knows of them. Returns a trader that paused."""
        epochs = dict(zip(self._names, self._epochs(), strict=True))
        with database.connect(self._database_url, database.COMMAND) as connection:
            asked = {"traders": list(epochs), "epochs": list(epochs.values())}
            pauses = connection.execute(_SQL["pauses"], asked).fetchall()
        if not pauses:
            return None
        trader_id, reason = pauses[0]
        self._screen.print(f"{_paused(len(pauses), trader_id)}: {reason}.")
        return str(trader_id)

    def _draw_equity(self, trader_id: str) -> None:
        import plotext

        epoch = self._epochs()[self._names.index(trader_id)]
        width = min(self._screen.width, 100)
        with database.connect(self._database_url, database.COMMAND) as connection:
            asked = {"trader_id": trader_id, "epoch": epoch, "points": 2 * width}
            points = connection.execute(_SQL["equity"], asked).fetchall()
        if len(points) < 2:
            return
        figure = plotext.figure
        figure.clear()
        figure.theme("colorless")
        figure.plot_size(width, 14)
        figure.title(f"equity of {trader_id} as stored in Postgres")
        figure.label("seconds", "x")
        low, high = min(y for _, y in points), max(y for _, y in points)
        ticks = [low + (high - low) * part / 4 for part in range(5)]
        figure.ruler("y").ticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        curve = figure.signal([x for x, _ in points], [y for _, y in points], marker="braille")
        figure.draw(curve.lines())
        self._screen.print(Text("\n" + figure.build().string(colorless=True)))

    def _show_next_steps(self, dashboard_url: str | None, keep: bool) -> None:
        lines = ["", f"Data and logs are in {shown(self._data)}."]
        if not keep:
            where = "" if self._data == DATA.absolute() else f" --data {shlex.quote(shown(self._data))}"
            lines.append(f"To look further, keep it running at the end: {command()} demo{where} --keep")
            lines.append(f"To try a bot of your own: {command()} up")
        else:
            psql = shutil.which("psql") or str(embedded.program("psql"))
            lines += [
                "To look further, in another terminal:",
                *(f"  {line}" for line in exports(self._redis_url, self._database_url)),
                f"  {command()} state",
                f"  {command()} history {self._names[0]}",
                f"  {shlex.quote(psql)} {self._database_url} -c 'TABLE risk_state'",
                *([f"  {dashboard_url}"] if dashboard_url else []),
                "Everything keeps running. Ctrl-C stops it.",
            ]
        self._screen.print("\n".join(lines))


_COLUMNS: Final = ("accepted", "stored", "conflated", "dead", "lost", "duplicates")


class Screen:
    """A live display on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._last_line = -inf
        self._line = ""
        self._waits_until = ""

    @property
    def width(self) -> int:
        return self._console.width

    def print(self, what: str | Text | Table) -> None:
        """Once, above the live display."""
        self._console.print(what, markup=False, highlight=False, soft_wrap=not isinstance(what, Table))

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Where show() shows; the last of it in any case."""
        if not self._console.is_terminal:
            yield
            if self._line:
                self.print(self._line)
            return
        with Live(console=self._console, refresh_per_second=8) as self._live:
            yield
        self._live = None

    def show(
        self, sample: CounterSample, elapsed_s: float, seconds: float, worker: int | None, waits_until: str
    ) -> None:
        """How things stand, and what is waited for."""
        if self._live is not None:
            self._live.update(_panel(sample, elapsed_s, seconds, worker, waits_until))
            return
        self._line = (
            f"{elapsed_s:5.1f} s  accepted {sample.accepted:,}  stored {sample.stored:,}  "
            f"in flight {sample.in_flight:,}  {sample.rows_per_s:,.0f} rows/s  "
            f"p50 {_ms(sample.p50_ms)}  p99 {_ms(sample.p99_ms)}" + ("" if worker else "  no worker")
        )
        if self._clock() - self._last_line >= LINE_EVERY_S:
            self._last_line = self._clock()
            if waits_until != self._waits_until:
                self._waits_until = waits_until
                self.print(f"Waiting until {waits_until} ...")
            self.print(self._line)
            self._line = ""


def _panel(
    sample: CounterSample, elapsed_s: float, seconds: float, worker: int | None, waits_until: str
) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right", min_width=10)
    grid.add_column()
    grid.add_row("accepted", f"{sample.accepted:,}", "Redis has them")
    grid.add_row("stored", f"{sample.stored:,}", "Postgres has committed them")
    grid.add_row("in flight", f"{sample.in_flight:,}", "in the stream, not yet in Postgres")
    grid.add_row("rows/s", f"{sample.rows_per_s:,.0f}", "")
    grid.add_row("latency", _ms(sample.p50_ms), f"p50, accept to commit; p99 {_ms(sample.p99_ms)}")
    grid.add_row("worker", str(worker) if worker else Text("killed", style="bold red"), "")
    grid.add_row("waits until", "", waits_until)
    return Panel(grid, title=f"riskstream, {min(elapsed_s, seconds):.0f} of {seconds:g} s", expand=False)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"≤ {value:,.4g} ms"


def _paused(count: int, first: str) -> str:
    if count == 1:
        return f"Once a trader paused, {first}"
    return f"{count:,} times a trader paused, the first was {first}"


def _report(traders: Child) -> TradersReport:
    """What a process of traders says in its last line. Raises DemoFailed."""
    try:
        return msgspec.json.decode(traders.log_tail(1), type=TradersReport)
    except msgspec.MsgspecError:
        raise DemoFailed(f"{traders.name} failed; its log says:\n{traders.log_tail()}") from None


def _differences(accepted: Mapping[EpochKey, int], found: Report) -> list[str]:
    """What the traders counted differently from Redis, and what was not drained, one sentence each."""
    known = {(epoch.trader_id, epoch.epoch): epoch for epoch in found.epochs}
    differences = []
    for (trader_id, epoch), count in accepted.items():
        admitted = known[trader_id, epoch].accepted if (trader_id, epoch) in known else 0
        if admitted != count:
            differences.append(
                f"{trader_id}, epoch {epoch}: it counted {count:,} accepted, Redis {admitted:,}"
            )
    if in_flight := found.totals["in_flight"]:
        differences.append(f"{in_flight:,} are still in flight")
    return differences


def _table(epochs: list[EpochReport]) -> Table:
    table = Table(title="Reconciliation, counted by Redis and Postgres", title_justify="left")
    for heading in ("trader", *(name.replace("_", " ") for name in _COLUMNS)):
        table.add_column(heading, justify="left" if heading == "trader" else "right")
    rows = [[getattr(epoch, name) for name in _COLUMNS] for epoch in epochs]
    if len(epochs) <= LISTED_MAX:
        for epoch, row in zip(epochs, rows, strict=True):
            table.add_row(epoch.trader_id, *(f"{number:,}" for number in row))
    table.add_section()
    table.add_row("all", *(f"{sum(numbers):,}" for numbers in zip(*rows, strict=True)))
    return table
