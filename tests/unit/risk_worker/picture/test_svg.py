"""The file is well-formed, complete in itself, and shows texts as texts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, timedelta
from random import Random
from typing import Any

import pytest

from risk_worker.picture import svg, words
from risk_worker.picture.curve import picture_of
from tests.support.facts import BUCKET, DAY, UNFRIENDLY, curve_rows, pause

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str = "a", **changes: Any) -> str:
    rows = changes.pop("rows", None)
    if rows is None:
        rows = curve_rows(Random(1), without=[range(50, 70)])
    pauses = [
        pause(name, DAY + timedelta(hours=2), DAY + timedelta(hours=4)),
        pause(name, DAY + timedelta(hours=20), None),
    ]
    return svg.draw(
        picture_of(name, rows, pauses, bucket=BUCKET, since=DAY, until=DAY + timedelta(days=1), zone=UTC)
    )


def texts(read: ET.Element) -> list[str]:
    return [each.text or "" for each in read.iter(f"{SVG}text")]


def test_what_is_in_it() -> None:
    read = ET.fromstring(drawn())
    classes = [each.get("class") for each in read.iter(f"{SVG}path")]
    assert {"silence", "pause", "range", "peak", "equity", "below"} <= set(classes)
    [silence, _] = [each.get("d") or "" for each in read.iter(f"{SVG}path") if each.get("class") == "silence"]
    assert silence.count("M") == 1
    [equity] = [each.get("d") or "" for each in read.iter(f"{SVG}path") if each.get("class") == "equity"]
    assert equity.count("M") == 2
    shown = texts(read)
    assert {"paused", "no snapshot", "equity", "drawdown", "03:00", "26 Nov"} <= set(shown)
    assert any(each.startswith("peak ") for each in shown)
    [title, desc] = [read.findtext(f"{SVG}{name}") or "" for name in ("title", "desc")]
    assert title == "Equity of a, 2026-11-25 00:00 to 2026-11-26 00:00 UTC"
    assert "2 pauses, 1 silence." in desc


def test_it_asks_no_network() -> None:
    text = drawn()
    assert text.replace('xmlns="http://www.w3.org/2000/svg"', "").count("http") == 0
    assert "@import" not in text
    assert "href" not in text


@pytest.mark.parametrize("name", UNFRIENDLY)
def test_a_name_is_a_text(name: str) -> None:
    read = ET.fromstring(drawn(name))
    assert len(list(read.iter(f"{SVG}script"))) == 0
    assert len(list(read.iter(f"{SVG}style"))) == 1
    assert "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in words.cut_name(name)
    ) in texts(read)


def test_without_a_snapshot() -> None:
    read = ET.fromstring(drawn(rows=[]))
    assert any(text.startswith("no snapshot, 2026-11-25 00:00") for text in texts(read))
