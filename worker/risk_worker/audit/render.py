"""A reconciliation as text for a person, and as JSON for a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC
from itertools import islice
from typing import Final

import msgspec

from risk_producer.contract.counters import FOREIGN
from risk_worker.audit.ledger import BEGINNING
from risk_worker.audit.reconcile import Report
from risk_worker.seal.render import printable

SHOWN_MAX: Final = 50  # lines for a person; JSON has all


def as_json(report: Report) -> Iterator[str]:
    """One object in pieces: the sums, then what is wrong in detail."""
    first = report.totals | {
        "reconciled": report.reconciled,
        "consistent": report.consistent,
        "dead_but_stored": report.dead_but_stored,
        "epochs": len(report.epochs),
        "retained_since": report.retained_since,
        "lost_since": report.lost_since,
        "sealed_until": None if report.sealed_until == BEGINNING else report.sealed_until,
        "rows_read": report.rows_read,
    }
    yield msgspec.json.format(msgspec.json.encode(first)).decode().removesuffix("\n}")
    gaps = (
        {"trader_id": epoch.trader_id, "epoch": epoch.epoch, "from": first, "to": last}
        for epoch in report.epochs
        for first, last in epoch.gaps
    )
    with_duplicates = (
        {"trader_id": epoch.trader_id, "epoch": epoch.epoch, "duplicates": epoch.duplicates}
        for epoch in report.epochs
        if epoch.duplicates
    )
    yield from _json_list("gaps", gaps)
    yield from _json_list("epochs_with_duplicates", with_duplicates)
    yield from _json_list("states_behind", report.states_behind)
    yield from _json_list("known_losses", report.known_losses)
    yield from _json_list("lost_no_longer", report.lost_no_longer)
    yield from _json_list("findings", report.findings)
    yield "\n}"


def as_text(report: Report, *, each_epoch: bool) -> str:
    """For a person. each_epoch: with a line for each of the newest epochs, not only what is wrong."""
    totals = report.totals
    if report.lost_since is None:
        del totals["lost_earlier"]  # there is none
    lines = [f"{name.replace('_', ' '):<13}{count:>15,}" for name, count in totals.items()]
    if report.totals[FOREIGN]:
        lines.append("Foreign is what came into the stream by another way than a producer.")
    if report.dead_but_stored:
        lines.append(
            f"{report.dead_but_stored:,} dead letters are stored all the same; a retry removes them."
        )
    if report.retained_since is not None:
        since = report.retained_since.astimezone(UTC)
        lines.append(f"History is retained since {since:%Y-%m-%dT%H:%M:%SZ}; what was before is not lost.")
    if report.lost_since is not None:
        since = report.lost_since.astimezone(UTC)
        lines.append(f"What was lost before {since:%Y-%m-%dT%H:%M:%SZ} is no problem, as --since says.")
    lines += [str(loss) for loss in report.known_losses[:SHOWN_MAX]]
    if len(report.known_losses) > SHOWN_MAX:
        lines.append(f"and {len(report.known_losses) - SHOWN_MAX:,} more; riskstream verify known has all")
    if report.rows_read is not None:
        rate = report.rows_read / max(report.seconds, 1e-9)
        lines.append(f"{report.rows_read:,} sealed rows read, {rate:,.0f} rows/s")
    elif report.sealed_until != BEGINNING:
        lines.append(
            f"What was stored until {report.sealed_until} is counted by its seals; --deep reads it again."
        )
    if each_epoch:
        older = len(report.epochs) - SHOWN_MAX
        if older > 0:
            lines.append(f"{older:,} older epochs are not shown.")
        lines += [
            f"{epoch.trader_id}, epoch {epoch.epoch}: {epoch.accepted:,} accepted, {epoch.stored:,} stored, "
            f"{epoch.dead:,} dead, {epoch.dropped:,} dropped, {epoch.conflated:,} conflated, "
            f"{epoch.in_flight:,} in flight"
            for epoch in report.epochs[-SHOWN_MAX:]
        ]
    problems = report.each_problem()
    shown = list(islice(problems, SHOWN_MAX))
    more = sum(1 for _ in problems)
    lines += [f"✗ {problem}" for problem in shown]
    if more:
        lines.append(f"✗ and {more:,} more; --json has all")
    apart = totals["known_lost"] + totals.get("lost_earlier", 0)
    lines.append(conclusion(reconciled=not shown, lost_apart=apart, dropped=totals["dropped"]))
    return "\n".join(map(printable, lines))


def conclusion(*, reconciled: bool, lost_apart: int = 0, dropped: int = 0) -> str:
    """The last line. lost_apart: how many are lost and no problem, as they are known, or it was long ago.
    dropped: how many an operator has dropped."""
    if reconciled:
        lost = f"{lost_apart:,} are lost and no others" if lost_apart else "nothing is lost"
        if dropped:
            lost += f", {dropped:,} were dropped by operators (riskstream dead dropped)"
        return f"✓ Reconciled: {lost}, nothing is duplicated, every state is the newest."
    return "✗ Not reconciled: see above."


def _json_list(name: str, items: Iterable[object]) -> Iterator[str]:
    """A member of the object, its list in pieces."""
    yield f',\n  "{name}": ['
    separator = "\n    "
    for item in items:
        yield separator + msgspec.json.format(msgspec.json.encode(item), indent=0).decode()
        separator = ",\n    "
    yield "]"
