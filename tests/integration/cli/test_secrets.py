"""No command shows a part of a password, in whatever way it is given, and whatever is wrong.

Here each set-up meets two of the commands and one of the passwords; tests/system/test_secrets.py has all.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest

from risk_worker.audit import verify
from risk_worker.database import migrations
from risk_worker.web import server
from tests.support import passwords
from tests.support.passwords import MALFORMED, PASSWORDS, REFUSED, STAY, UNREACHED, Records, Site


@pytest.fixture
def site(redis_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Commands run in an empty folder, wait for no server, and serve nothing."""
    files, here = tmp_path / "files", tmp_path / "here"
    files.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(migrations, "WAIT_TIMEOUT_S", 0.001)
    monkeypatch.setattr(verify, "REDIS_WAIT_S", 0.001)
    monkeypatch.setattr(server.Server, "serve_until_signalled", lambda _self, ready=lambda: None: ready())
    return Site(files, _place(redis_url), _place(database_url))


def _place(url: str) -> str:
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0]


def test_the_mark_is_in_every_piece() -> None:
    for password in PASSWORDS:
        pieces = "".join(each if each.isalnum() else " " for each in password).split()
        assert all(passwords.hits(each) or len(each) < 3 for each in pieces), password


def test_settings_that_cannot_be_used(site: Site) -> None:
    words, chosen = passwords.commands(), cycle(PASSWORDS)
    others = cycle(sorted(words.keys() - {"config", *STAY}))
    leaks = []
    with Records() as records:
        for name, setup in MALFORMED.items():
            environ = setup(site, next(chosen))
            for command in ("config", next(others)):
                shown = passwords.run(words[command], environ)
                leaks += [(name, command, each) for each in passwords.hits(shown + records.taken())]
    assert leaks == []
    assert passwords.hits_in_files(Path.cwd()) == []


def test_servers_that_do_not_answer_or_refuse(site: Site) -> None:
    words, chosen = passwords.commands(), cycle(PASSWORDS)
    others = cycle(sorted(words.keys() - set(STAY)))
    leaks = []
    with Records() as records:
        for name, setup in {**UNREACHED, **REFUSED}.items():
            environ = setup(site, next(chosen))
            for command in (next(others), next(others)):
                shown = passwords.run(words[command], environ)
                leaks += [(name, command, each) for each in passwords.hits(shown + records.taken())]
            shown = passwords.use_in_python(environ)
            leaks += [(name, "Python", each) for each in passwords.hits(shown + records.taken())]
    assert leaks == []
    assert passwords.hits_in_files(Path.cwd()) == []
