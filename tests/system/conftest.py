"""Everything here runs by `make test-system` alone."""

from __future__ import annotations

import pytest

from tests.support.debian import missing


@pytest.fixture(scope="session", autouse=True)
def debian_packages() -> None:
    absent = missing()
    if absent:
        pytest.fail(f"these Debian packages are not installed: {', '.join(absent)}", pytrace=False)
