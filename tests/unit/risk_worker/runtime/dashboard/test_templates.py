"""rq-dashboard's templates, after they were changed. A new version of rq-dashboard has to pass too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rq_dashboard

from risk_worker.runtime.dashboard.templates import changed

FOLDER = Path(rq_dashboard.__file__).parent / "templates"
TEMPLATES = {
    str(path.relative_to(FOLDER)): path.read_text() for path in sorted(FOLDER.rglob("*")) if path.is_file()
}


def test_they_are_those_that_were_looked_at() -> None:
    names = {name.removeprefix("rq_dashboard/") for name in TEMPLATES}
    pages = {
        "base.html",
        "footer.html",
        "inline_js.html",
        "job.html",
        "jobs.html",
        "navbar.html",
        "queues.html",
    }
    scripts = {f"scripts/{name}.js" for name in ("dashboard", "job", "jobs", "queues", "workers")}
    assert names == pages | scripts | {"workers.html"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_writes_is_text(name: str) -> None:
    after = changed(name, TEMPLATES[name])
    assert "<%=" not in after
    assert ".html() %>" not in after, "text that is escaped twice"
    assert "|safe" not in re.sub(r"\|\s*tojson\s*\|\s*safe", "", after), "other than JSON for a script"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".js") or "inline_js" in name])
def test_what_a_script_gets_is_json(name: str) -> None:
    written = re.findall(r"\{\{(.*?)\}\}", changed(name, TEMPLATES[name]))
    others = [each.strip() for each in written if "tojson" not in each]
    assert others == (["poll_interval"] if "inline_js" in name else [])
    assert not re.search(r"""["']\{\{""", changed(name, TEMPLATES[name])), "a string within a string"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".html")])
def test_each_script_has_the_nonce_and_nothing_else_runs(name: str) -> None:
    after = changed(name, TEMPLATES[name])
    scripts = re.findall(r"<script\b[^>]*", after)
    assert all('nonce="{{ nonce }}"' in each for each in scripts)
    assert not re.search(r"""\son\w+\s*=\s*["']|javascript:""", after), "which a policy with a nonce refuses"
    assert not re.search(r"<(?:iframe|object|embed|base|form|style)\b", after)


def test_what_changes_jobs_is_shown_where_it_may_be_used() -> None:
    buttons = ("compact-btn", "requeue-all-btn", "requeue-job-btn", "empty-btn", "delete-job-btn")
    for name in ("rq_dashboard/jobs.html", "rq_dashboard/job.html"):
        after = changed(name, TEMPLATES[name])
        hidden = re.sub(r"\{% if enable_delete %\}.*?\{% endif %\}", "", after, flags=re.DOTALL)
        assert [each for each in buttons if f'"{each}"' in hidden] == []
        assert len([each for each in buttons if f'"{each}"' in after]) >= 2


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("a.html", "<%= d.x %>", "<%- d.x %>"),
        ("a.html", "<%= $('<div/>').text(d.x).html() %>", "<%- d.x %>"),
        ("a.html", "<script>", '<script nonce="{{ nonce }}">'),
        ("a.html", "<scripts>", "<scripts>"),
        ("a.js", "val('{{ queue.name }}')", "val({{ queue.name|tojson }})"),
        ("a.js", "{{ id|tojson|safe }}", "{{ id|tojson|safe }}"),
    ],
)
def test_changes(name: str, before: str, after: str) -> None:
    assert changed(name, before) == after
