"""What speaks for the rows: the totals of verify, and the head of the chain of seals."""

from __future__ import annotations

from itertools import islice
from typing import Final

from risk_worker.audit.render import conclusion
from risk_worker.picture.markup import Markup, element, joined
from risk_worker.report import cells
from risk_worker.report.cells import Column
from risk_worker.report.facts import Proof, Unasked
from risk_worker.seal.chain import Run
from risk_worker.seal.render import head_line

PROBLEMS: Final = 20
"""Of what is wrong, so much is named."""
_TOTALS: Final = {
    "accepted": "by Redis, from producers",
    "foreign": "came into the stream by another way",
    "stored": "in history",
    "dead": "could not be stored, and are kept as dead letters",
    "dropped": "were dead letters that an operator has dropped",
    "conflated": "merged into newer snapshots",
    "in_flight": "wait in Redis",
    "not_retained": "removed by retention",
    "lost": "accepted, and found nowhere",
    "known_lost": "lost, and accepted as lost by an operator",
    "duplicates": "stored more than once",
    "state_behind": "traders whose latest state is not the newest of their history",
}


def proof_section(proof: Proof) -> Markup:
    return cells.section("proof", "Proof", _reconciliation(proof), _seals(proof.head))


def _reconciliation(proof: Proof) -> Markup:
    report = proof.reconciliation
    head = element("h3", "What was accepted is what is stored")
    if isinstance(report, Unasked):
        return joined(
            head,
            element(
                "p",
                "It could not be verified when the report was made: ",
                cells.text(report.reason, 500),
                class_="note",
            ),
        )
    problems = list(islice(report.each_problem(), PROBLEMS + 1))
    found: list[Markup]
    if problems:
        found = [
            element("p", "✗ Not reconciled.", class_="bad"),
            element("ul", *(element("li", cells.text(each, 500)) for each in problems[:PROBLEMS])),
        ]
        if len(problems) > PROBLEMS:
            found.append(element("p", "There is more; riskstream verify names all of it."))
    else:
        found = [
            element(
                "p",
                conclusion(
                    reconciled=True,
                    lost_apart=report.totals["known_lost"],
                    dropped=report.totals["dropped"],
                ),
                class_="good",
            )
        ]
    columns: list[Column[str]] = [
        Column("", lambda name: name.replace("_", " ")),
        Column("Snapshots", lambda name: f"{report.totals[name]:,}", "n"),
        Column("Meaning", _TOTALS.__getitem__, "wide"),
    ]
    caption = (
        "accepted + foreign = stored + dead + dropped + conflated + in flight + not retained + known lost, "
        "as riskstream verify counted them before the report."
    )
    return joined(head, *found, cells.table(caption, columns, _TOTALS, none="", kind="totals"))


def _seals(run: Run | Unasked | None) -> Markup:
    head = element("h3", "What is stored is what was stored")
    if isinstance(run, Unasked):
        text = joined("The chain of seals could not be read: ", cells.text(run.reason, 500))
    elif run is None:
        text = joined("Nothing is sealed yet.")
    else:
        return joined(
            head,
            element(
                "p",
                "The last entry of the chain of seals. Keep this line elsewhere: riskstream seal verify "
                "--heads shows by it whether anything that was sealed has been changed since.",
            ),
            element("p", element("code", head_line(run)), class_="head"),
        )
    return joined(head, element("p", text, class_="note"))
