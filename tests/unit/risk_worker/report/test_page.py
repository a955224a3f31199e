"""The page is well-formed, complete in itself, small enough to be mailed, and shows texts as texts."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from risk_worker.audit.reconcile import EpochReport, Report
from risk_worker.report.facts import Facts, Proof, Unasked
from risk_worker.report.page import page
from risk_worker.seal.chain import SEALED, Run
from tests.support.facts import DAY, UNFRIENDLY, facts

NAMES = [f"trader-{number}" for number in range(10)]
RUN = Run(
    *(
        7,
        1,
        SEALED,
        DAY,
        DAY + timedelta(hours=1),
        None,
        3,
        900,
        b"\x02" * 32,
        b"\x01" * 32,
        b"\xab" * 32,
        True,
        None,
    )
)
OPENED = re.compile(r"<(style|script)>(.*?)</\1>", re.S)


def read(text: str) -> ET.Element:
    """The page as XML, which is stricter than HTML; without its style and script."""
    head, _, rest = text.partition("\n")
    assert head == "<!DOCTYPE html>"
    return ET.fromstring(OPENED.sub("", rest))


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def part(root: ET.Element, anchor: str) -> ET.Element:
    [found] = [each for each in root.iter() if each.get("id") == anchor]
    return found


def table(root: ET.Element, anchor: str) -> list[dict[str, str]]:
    """The rows of the table in a part, by the heads of its columns."""
    found = next(part(root, anchor).iter("table"))
    heads = [words(each) for each in found.iterfind("thead/tr/th")]
    return [dict(zip(heads, map(words, row), strict=True)) for row in found.iterfind("tbody/tr")]


@pytest.fixture(scope="module")
def root() -> ET.Element:
    return read(page(facts(NAMES)))


def test_the_parts(root: ET.Element) -> None:
    anchors = [each.get("id") for each in root.iter("section")]
    assert anchors == ["paused", "silent", "drawdowns", "fleet", "curves", "proof"]
    for link in root.iter("a"):
        assert (link.get("href") or "").startswith("#")
        part(root, (link.get("href") or "")[1:])
    identities = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(identities) == len(set(identities))
    for use in root.iter("use"):
        assert (use.get("href") or "")[1:] in identities


def test_who_is_paused_and_why(root: ET.Element) -> None:
    rows = table(root, "paused")
    assert [row["Trader"] for row in rows] == ["trader-2", "trader-5", "trader-8"]
    assert {row["Why"] for row in rows} == {"over the limit"}
    assert {(row["Since"], row["For"], row["Snapshot"]) for row in rows} == {
        ("2026-11-25 21:00:00", "3 h 00 min", "1/2 order-1")
    }


def test_who_is_silent(root: ET.Element) -> None:
    rows = table(root, "silent")
    assert [row["Trader"] for row in rows] == ["trader-4", "trader-9"]
    assert rows[0]["Silent for"] == "4 h 00 min"


def test_the_worst_drawdowns_come_first() -> None:
    found = facts(NAMES * 2)
    rows = table(read(page(found)), "drawdowns")
    worst = sorted((each.worst.drawdown_pct for each in found.traders if each.worst), reverse=True)
    assert [row["Drawdown"] for row in rows] == [f"{each:.2f} %" for each in worst[:10]]


def test_the_fleet(root: ET.Element) -> None:
    rows = table(root, "fleet")
    assert [row["Trader"] for row in rows] == NAMES
    assert [row["Status"] for row in rows[:5]] == [
        *("trading", "trading", "paused since 21:00:00", "trading", "silent for 4 h 00 min"),
    ]
    assert rows[0]["Paused in all"] == "50 min"
    assert rows[2]["Paused in all"] == "3 h 50 min"


def test_a_trader_without_a_snapshot_of_the_day_has_no_profit_and_loss() -> None:
    found = facts(NAMES[:1])
    [only] = found.traders
    root = read(page(facts(NAMES[:1], traders=[replace(only, reported=False, worst=None)])))
    [row] = table(root, "fleet")
    assert (row["Profit and loss"], row["Worst"], row["At"]) == ("–", "–", "–")


def test_each_trader_has_a_curve_with_its_gaps_and_pauses(root: ET.Element) -> None:
    cards = list(part(root, "curves").iter("article"))
    assert [words(next(card.iter("bdi"))) for card in cards] == NAMES
    for number, card in enumerate(cards):
        classes = [each.get("class") for each in card.iter() if each.tag in ("path", "rect")]
        assert {"e", "v", "h", "d", "p", "t"} <= set(classes)
        silences = [each for each in card.iter("use") if each.get("href") == "#silence"]
        assert len(silences) == (2 if number % 5 == 4 else 1)
        equity = part(card, f"e{number}").get("d") or ""
        assert equity.count("M") == 2
        label = next(each for each in card.iter("svg") if each.get("role") == "img").get("aria-label") or ""
        assert label.startswith("Equity began at ")


def test_it_needs_no_network_and_runs_nothing_but_its_own() -> None:
    text = page(facts(NAMES))
    [(style, css), (script, js)] = OPENED.findall(text)
    assert (style, script) == ("style", "script")
    [rules] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    for code in (css, js):
        assert f"'sha256-{b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" in unescape(rules)
    assert unescape(rules).startswith("default-src 'none'; ")
    without = text.replace("http-equiv", "")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|\bsrc=", without.replace(js, ""))
    assert not re.search(r"https?:|fetch|XMLHttp|import\(|eval|innerHTML", js)
    assert set(re.findall(r'href="([^"#])', text)) == {"d"}  # data:, for the icon
    assert not re.search(r'\s(on\w+|style)="', text)


def test_both_colour_schemes_and_paper() -> None:
    [(_, css), _] = OPENED.findall(page(facts(NAMES[:1])))
    light, dark = (
        dict(re.findall(r"(--[a-z]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    )
    assert light.keys() == dark.keys()
    assert all(light[name] != dark[name] for name in light)
    assert "@media screen and (prefers-color-scheme: dark)" in css  # paper is white
    assert "@media print" in css
    assert "@page" in css
    assert set(re.findall(r"var\((--[a-z]+)\)", css)) - light.keys() <= {
        "--small",
        "--base",
        "--large",
        "--larger",
        "--largest",
    }
    for colours in (light, dark):
        for ink in ("--ink", "--muted", "--down"):
            assert _contrast(colours[ink], colours["--paper"]) >= 4.5
        for line in ("--equity", "--below", "--bar"):
            assert _contrast(colours[line], colours["--paper"]) >= 3


def _contrast(one: str, other: str) -> float:
    """As WCAG counts it."""
    lighter, darker = sorted((_light(one), _light(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _light(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(each * 2 for each in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_tables_can_be_read_aloud(root: ET.Element) -> None:
    for each in root.iter("table"):
        assert words(each.findall("caption")[0])
        assert all(head.get("scope") == "col" for head in each.iterfind("thead/tr/th"))
        if each.get("class") != "week":
            assert all(row[0].get("scope") == "row" for row in each.iterfind("tbody/tr"))


def test_200_traders_are_less_than_2_mb() -> None:
    text = page(facts([f"trader-{number:03}" for number in range(200)], ["x" * 10_000]))
    assert len(text.encode()) < 2_000_000


@pytest.mark.parametrize("text", UNFRIENDLY)
def test_whatever_the_database_holds_is_a_text(text: str) -> None:
    reconciliation = Report([EpochReport(text, 1, 2, 1, 0, 0, 0, 1, 0, [(2, 2)])], [text])
    found = page(facts([text, "b", text], [text], proof=Proof(reconciliation, Unasked(text))))
    root = read(found)
    plain = page(facts(["a", "b", "c"], ["why"], proof=Proof(reconciliation, Unasked("no"))))
    tags = [each.tag for each in root.iter()]
    assert tags == [each.tag for each in read(plain).iter()]
    assert len(OPENED.findall(found)) == 2
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:79])
    assert shown in words(part(root, "fleet")).replace("  ", " ") or shown.split()[0] in words(
        part(root, "fleet")
    )
    every = "".join(root.itertext()) + "".join(
        value for each in root.iter() for value in each.attrib.values()
    )
    assert all(each.isprintable() or each in "\n\u00a0\u202f" for each in every)
    assert len(found) < len(plain) + 12_000


class TestProof:
    def test_reconciled_and_sealed(self) -> None:
        report = Report([EpochReport("a", 1, 12_345, 12_345, 0, 0, 0, 0, 0)], [])
        root = read(page(facts(NAMES[:1], proof=Proof(report, RUN))))
        shown = words(part(root, "proof"))
        assert "✓ Reconciled" in shown
        assert f"7 {'ab' * 32} 2026-11-25T01:00:00" in shown
        assert table(root, "proof")[0]["Snapshots"] == "12,345"
        assert "Reconciled Yes" in words(next(root.iter("dl"))).replace("Reconciled", "Reconciled ")

    def test_not_reconciled(self) -> None:
        lost = [EpochReport(f"t{number}", 1, 2, 1, 0, 0, 0, 1, 0, [(2, 2)]) for number in range(30)]
        shown = words(part(read(page(facts(NAMES[:1], proof=Proof(Report(lost, []), None)))), "proof"))
        assert "✗ Not reconciled." in shown
        assert "t19, epoch 1: lost seq 2" in shown
        assert "t20" not in shown
        assert "There is more" in shown
        assert "Nothing is sealed yet." in shown

    def test_what_could_not_be_asked(self) -> None:
        shown = words(part(read(page(facts(NAMES[:1]))), "proof"))
        assert "could not be verified when the report was made: REDIS_URL is not set" in shown


def test_a_day_that_lasts_and_one_that_is_over() -> None:
    over = words(next(read(page(facts(NAMES[:1]))).iter("header")))
    assert "Wednesday, 25 November 2026" in over
    assert "The whole day, UTC. As of 2026-11-26 06:00:12 by the clock of the database." in over
    until = datetime(2026, 11, 25, 16, 30, tzinfo=UTC)
    lasts = words(next(read(page(facts(NAMES[:1], over=False, now=until, until=until))).iter("header")))
    assert "Until 16:30:00, UTC. As of 2026-11-25 16:30:00" in lasts


def test_without_a_trader() -> None:
    root = read(page(facts([])))
    assert "No trader is known." in words(part(root, "fleet"))
    assert "No trader was paused." in words(part(root, "paused"))


def test_what_is_reported_is_what_is_given() -> None:
    found: Facts = facts(NAMES)
    shown = words(next(read(page(found)).iter("dl")))
    total = sum(each.last.daily_pnl for each in found.traders)
    assert f"{total:,.0f}".replace("-", "−") in shown
