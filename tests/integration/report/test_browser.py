"""The page in a browser: on a desktop and on a phone, light and dark, and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from risk_worker.report.page import page
from tests.support.chromium import PROGRAM, Page, chromium
from tests.support.facts import UNFRIENDLY, facts

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed: apt-get install chromium"),
]
NAMES = [*(f"trader-{number:02}" for number in range(30)), *UNFRIENDLY]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(facts(NAMES, ["over the limit", *UNFRIENDLY])), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_error_no_request_and_no_overflow(browser: Page, file: Path, width: int, dark: bool) -> None:
    browser.open(file, width=width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.value(wide) == 0
    assert browser.complaints == []
    assert browser.requests == []
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark


def names(browser: Page) -> list[str]:
    rows = "[...document.querySelectorAll('.fleet tbody tr')].filter(e => !e.hidden)"
    return list(browser.value(f"{rows}.map(e => e.cells[0].textContent)"))


def test_sorting_and_finding(browser: Page, file: Path) -> None:
    browser.open(file, width=1280)
    shown = browser.value("[...document.querySelectorAll('.fleet thead th')].map(e => e.textContent)")
    column = shown.index("Worst") + 1
    for direction in ("descending", "ascending"):
        browser.click(f".fleet thead th:nth-child({column}) button")
        cells = f"[...document.querySelectorAll('.fleet tbody td:nth-child({column})')]"
        worst = browser.value(f"{cells}.map(e => parseFloat(e.textContent))")
        assert worst == sorted(worst, reverse=direction == "descending")
        assert browser.value("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == direction
        cards = browser.value("[...document.querySelectorAll('article h3 bdi')].map(e => e.textContent)")
        assert cards == names(browser)
    browser.value("document.querySelector('[type=search]').value = 'TRADER-1'")
    browser.value("document.querySelector('form').dispatchEvent(new Event('input'))")
    assert sorted(names(browser)) == [f"trader-{number}" for number in range(10, 20)]
    browser.value("document.querySelector('[type=search]').value = ''")
    browser.click("[value=silent]")
    assert len(names(browser)) == sum(each.silent_s is not None for each in facts(NAMES).traders)
    assert browser.complaints == []


def test_on_paper(browser: Page, file: Path) -> None:
    browser.open(file, width=1280, dark=True, paper=True)
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert (
        browser.value("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()")
        == "#15181c"
    )


def test_without_scripts_everything_is_there(browser: Page, file: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file, width=1280)
        assert names(browser) == browser.value(
            "[...document.querySelectorAll('article h3 bdi')].map(e => e.textContent)"
        )
        assert browser.value("document.querySelector('form').hidden") is True
        assert browser.value("document.querySelectorAll('button').length") == 0
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
