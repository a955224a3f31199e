"""Every page of the dashboard in a browser, over what any client of RQ's Redis may have put there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from risk_worker.runtime import dashboard
from risk_worker.runtime.dashboard import guard, templates
from risk_worker.runtime.dashboard.access import Access, access
from risk_worker.web.server import Server
from tests.support.chromium import PROGRAM, Page, chromium
from tests.support.rq import JOBS, PAGES, fill
from tests.support.wait import wait_until
from tests.support.web import serving

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed: apt-get install chromium"),
]

RUN = "window.ran=(window.ran||0)+1"
SCRIPTS = [
    *(
        f"<script>{RUN}</script>",
        f"<img src=x onerror={RUN}>",
        f'"><svg onload="{RUN}">',
        f"javascript:{RUN}",
    ),
    *(f"<% {RUN} %>", f"<%= {RUN} %>", f"{{{{ {RUN} }}}}", "{{ 7*7 }}", f"</script><script>{RUN}</script>"),
    *(
        f"');{RUN};('",
        f"\\');{RUN};//",
        f"'-({RUN})-'",
        f"<a href='javascript:{RUN}'>x</a>",
        f"\u2028{RUN}\u2029",
    ),
    f'<iframe srcdoc="<script>parent.{RUN[7:]}</script>"></iframe>',
]
TEXT = " ".join(SCRIPTS)
LOGIN = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "s3cret"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


@contextmanager
def site(redis_url: str, chosen: Access | None = None) -> Iterator[Server]:
    with serving(dashboard.application(redis_url, chosen)) as server:
        yield server


def show(browser: Page, url: str) -> None:
    """Open a page, and wait until its scripts have written what they asked for."""
    browser.open(url, width=1280)
    incomplete = (
        "document.body.textContent.includes('Loading...') || document.querySelector('#job-data:empty')"
    )
    loading = f"!document.body || {incomplete}"
    wait_until(lambda: not browser.value(f"!!({loading})"), 20, f"{url} to be complete: {browser.complaints}")


def found(browser: Page) -> dict[str, Any]:
    """What speaks for a text having become more than text."""
    hrefs = "[...document.querySelectorAll('[href],[src]')].map(e => e.href || e.src)"
    return {
        "ran": browser.value("window.ran"),
        "elements": browser.value(
            "document.querySelectorAll('img,svg,iframe,[onerror],[onload],script:not([nonce])').length"
        ),
        "links": browser.value(f"{hrefs}.filter(e => /^(javascript|data):/i.test(e)).length"),
    }


NOTHING = {"ran": None, "elements": 0, "links": 0}


def test_every_page_works_and_shows_text_as_text(
    browser: Page, redis_url: str, redis_client: redis.Redis
) -> None:
    fill(redis_client, TEXT)
    with site(redis_url) as server:
        for path in PAGES:
            show(browser, server.url + path)
            assert (path, found(browser)) == (path, NOTHING)
            assert browser.complaints == [], path
        show(browser, f"{server.url}/0/view/job/{JOBS['failed']}")
        shown = browser.value("document.querySelector('#job-data').textContent")
        assert shown.count(TEXT) >= 2, "description and exception"
        assert json.dumps(TEXT)[1:-1] in shown, "metadata"
        show(browser, f"{server.url}/0/view/workers")
        assert TEXT in browser.value("document.querySelector('#workers').textContent")
        show(browser, f"{server.url}/")
        assert TEXT in browser.value("document.querySelector('#queues').textContent")


# As rq-dashboard has it, a queue with a slash in its name has no page.
@pytest.mark.parametrize("text", [text for text in SCRIPTS if "/" not in text])
def test_a_name_of_a_queue_that_is_a_script(
    browser: Page, redis_url: str, redis_client: redis.Redis, text: str
) -> None:
    """In its own page, whose script has it too, and in the list that another one offers."""
    fill(redis_client, text)
    with site(redis_url) as server:
        name = browser.value(f"encodeURIComponent({json.dumps(text)})")
        show(browser, f"{server.url}/0/view/jobs/{name}/failed/8/asc/1")
        browser.click("#select-queue")
        browser.value("$('#select-queue').trigger('mouseleave')")
        assert found(browser) == NOTHING
        assert browser.complaints == []
        assert browser.value("document.querySelector('#select-queue').value") == text


def hrefs(browser: Page) -> list[str]:
    return list(browser.value("[...document.querySelectorAll('tbody a, .page-link')].map(e => e.href)"))


def test_links_lead_to_pages(browser: Page, redis_url: str, redis_client: redis.Redis) -> None:
    fill(redis_client, "text")
    with site(redis_url) as server:
        seen = set[str]()
        for path in ("/", "/0/view/workers", *(path for path in PAGES if path.endswith("/asc/1"))):
            show(browser, server.url + path)
            seen.update(each for each in hrefs(browser) if not each.endswith("#"))
        assert len(seen) >= 12
        for url in sorted(seen):
            assert url.startswith(server.url)
            show(browser, url)
            assert browser.complaints == [], url


def without_escaping(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_nonces(name: str, source: str) -> str:
        return (
            source if name.endswith(".js") else templates._SCRIPT.sub('<script nonce="{{ nonce }}"', source)
        )

    monkeypatch.setattr(templates, "changed", only_nonces)


@pytest.mark.parametrize("has_policy", [True, False], ids=["policy", "none"])
def test_the_policy_alone_keeps_scripts_from_running(
    browser: Page,
    redis_url: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    has_policy: bool,
) -> None:
    """With rq-dashboard's templates as they are. Without the policy too, they do run."""
    without_escaping(monkeypatch)
    if not has_policy:
        monkeypatch.setattr(guard, "POLICY", "frame-ancestors 'none'")
    fill(redis_client, TEXT)
    with site(redis_url) as server:
        show(browser, f"{server.url}/0/view/job/{JOBS['failed']}")
        assert found(browser)["elements"] > 0
        if has_policy:
            # Chromium has tried to run what it was given by now: it says so before it answers anything else.
            assert found(browser)["ran"] is None
            assert any("Content Security Policy" in each for each in browser.complaints)
        else:
            wait_until(lambda: found(browser)["ran"], 20, "a script to run")


@contextmanager
def logged_in(browser: Page) -> Iterator[None]:
    """As a browser does that keeps the login: with each request, whichever page it comes from."""
    sent = {"Authorization": "Basic " + base64.b64encode(b"ops:s3cret").decode()}
    browser.ask("Network.setExtraHTTPHeaders", headers=sent)
    try:
        yield
    finally:
        browser.ask("Network.setExtraHTTPHeaders", headers={})


def test_actions_work_from_the_page(browser: Page, redis_url: str, redis_client: redis.Redis) -> None:
    fill(redis_client, "text")
    with site(redis_url, access("127.0.0.1", [], LOGIN, allow_actions=True)) as server, logged_in(browser):
        show(browser, f"{server.url}/0/view/job/{JOBS['failed']}")
        browser.click("#requeue-job-btn")
        wait_until(
            lambda: redis_client.hget("rq:job:failed-job", "status") == b"queued", 20, "the job to be queued"
        )
        browser.click("#delete-job-btn")
        browser.click("#confirmation-modal-yes")
        wait_until(lambda: not redis_client.exists("rq:job:failed-job"), 20, "the job to be deleted")
        # It shows the queues then, by itself.
        wait_until(lambda: browser.value("location.pathname") == "/", 20, "the page of the queues")
        show(browser, f"{server.url}/0/view/jobs/risk-drain/finished/8/asc/1")
        browser.click("#empty-btn")
        browser.click("#confirmation-modal-yes")
        wait_until(lambda: not redis_client.exists("rq:finished:risk-drain"), 20, "the registry to be empty")
        assert browser.complaints == []


def test_a_page_of_another_site_changes_and_shows_nothing(
    browser: Page, redis_url: str, redis_client: redis.Redis
) -> None:
    fill(redis_client, "text")
    with site(redis_url, access("127.0.0.1", [], LOGIN, allow_actions=True)) as server, logged_in(browser):
        target = f"{server.url}/job/failed-job/delete"

        def other(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/html")])
            form = f"<form method=post action={target}></form>"
            asks = f"fetch('{server.url}/0/data/queues.json').then(() => read = 1, () => read = 0)"
            return [f"{form}<iframe src={server.url}/></iframe><script>var read; {asks}</script>".encode()]

        with serving(other) as elsewhere:
            browser.open(elsewhere.url.replace("127.0.0.1", "localhost"), width=800)
            wait_until(lambda: browser.value("read") is not None, 20, "the answer to the script")
            assert browser.value("read") == 0
            assert any("frame-ancestors" in each for each in browser.complaints)
            browser.value("document.forms[0].submit()")
            answer = "document.body && document.body.textContent"
            wait_until(
                lambda: "from a page of the dashboard" in (browser.value(answer) or ""), 20, "the refusal"
            )
    assert redis_client.exists("rq:job:failed-job")
