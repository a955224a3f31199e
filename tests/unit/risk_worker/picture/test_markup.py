"""A text is a text, whatever is in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from risk_worker.picture.markup import Markup, element, joined
from tests.support.facts import UNFRIENDLY


@pytest.mark.parametrize("text", UNFRIENDLY)
def test_a_text_marks_nothing_up(text: str) -> None:
    made = element("p", text, title=text)
    read = ET.fromstring(made)
    assert len(read) == 0
    for found in (read.text, read.get("title")):
        assert found is not None
        shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        assert found == shown
        assert found.isprintable()


def test_markup_stays() -> None:
    inside = element("b", "a < b")
    assert element("p", "x & ", inside, None) == "<p>x &amp; <b>a &lt; b</b></p>"
    assert joined(inside, Markup("<br/>")) == "<b>a &lt; b</b><br/>"


def test_attributes() -> None:
    made = element("path", d="M0 0", class_="a b", stroke_width=1.5, data_s=None, aria_label='"<')
    assert made == '<path d="M0 0" class="a b" stroke-width="1.5" aria-label="&quot;&lt;"/>'
    assert element("td", class_="n") == '<td class="n"></td>'


def test_spaces_of_a_page_stay() -> None:
    assert element("p", "1\u202f%\u00a0x") == "<p>1\u202f%\u00a0x</p>"
    assert element("p", "a\tb\r") == "<p>a\\tb\\r</p>"
