"""rq-dashboard's templates, so changed that what Redis holds is text on its pages, and never HTML or script.

They are changed as they are loaded, before any text from Redis is in them. rq-dashboard escapes no
description of a job, no metadata and no name of a worker; it writes the name of a queue into a script as it
is; and it offers to requeue jobs where deleting is forbidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from flask import Flask
from flask.templating import DispatchingJinjaLoader

NONCE: Final = "nonce"
"""Variable of the templates: what each script of a page has, and the policy in the same answer."""

# In templates of underscore.js, <%= %> writes HTML, and <%- %> text.
_ESCAPED_BY_HAND: Final = re.compile(r"<%=\s*\$\('<div/>'\)\.text\(([^()]+)\)\.html\(\)\s*%>")
_INTERPOLATED: Final = re.compile(r"<%=")
# A string of a script that Jinja writes.
_QUOTED: Final = re.compile(r"'\{\{\s*([^{}|]+?)\s*\}\}'")
_SCRIPT: Final = re.compile(r"<script(?=[\s>])")
_CHANGES_JOBS: Final = re.compile(
    r"""<(?P<tag>a|button)\b[^>]*\b(?:id|data-role)="(?:compact|requeue-all|requeue-job)-btn".*?</(?P=tag)>""",
    re.DOTALL,
)


def changed(name: str, source: str) -> str:
    """A template of rq-dashboard, as it is used."""
    source = _ESCAPED_BY_HAND.sub(r"<%- \1 %>", source)
    source = _INTERPOLATED.sub("<%-", source)
    if name.endswith(".js"):
        return _QUOTED.sub(r"{{ \1|tojson }}", source)
    source = _CHANGES_JOBS.sub(r"{% if enable_delete %}\g<0>{% endif %}", source)
    return _SCRIPT.sub(f'<script nonce="{{{{ {NONCE} }}}}"', source)


class _Loader(DispatchingJinjaLoader):
    """Flask's own, whose templates are changed."""

    def get_source(
        self, environment: Any, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, path, is_current = super().get_source(environment, template)
        return changed(template, source), path, is_current


class SafeFlask(Flask):
    """A Flask application for rq-dashboard's blueprint."""

    def create_global_jinja_loader(self) -> DispatchingJinjaLoader:
        return _Loader(self)

    def select_jinja_autoescape(self, filename: str | None) -> bool:
        """In every file: rq-dashboard's scripts are templates too, which Flask takes for no HTML."""
        return True
