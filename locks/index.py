"""Which wheels there are of a release, by the index that pip uses here, with their digests.

pip has no command for it: `pip download` and `pip lock` know the files for the Python that runs them alone.
So this uses what is inside pip, as pip-tools does, in this module and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version


def wheels(name: str, version: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """(file name, SHA-256) of each wheel of the release that is wanted by its file name."""
    for filename, digest in _files(name):
        try:
            _, found, _, _ = parse_wheel_filename(filename)
        except InvalidWheelFilename:  # a source distribution, or a wheel of old times
            continue
        if found == Version(version) and wanted(filename):
            yield filename, digest


def _files(name: str) -> Iterator[tuple[str, str]]:
    from pip._internal.commands import create_command
    from pip._internal.index.collector import parse_links

    command: Any = create_command("download")
    options, _ = command.parse_args([name])
    with command.main_context():
        session = command.get_default_session(options)
        collector = command._build_package_finder(options=options, session=session)._link_collector
        for source in collector.collect_sources(name, candidates_from_page=lambda _: []).index_urls:
            link = getattr(source, "link", None)
            page = collector.fetch_response(link) if link is not None else None
            for each in parse_links(page) if page is not None else ():
                if each.hash_name == "sha256" and each.hash is not None:
                    yield each.filename, each.hash
