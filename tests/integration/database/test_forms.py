"""Some forms of POSTGRES_URL and DB_*, on the embedded Postgres; `make test-system` has all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from risk_devkit.embedded import EmbeddedPostgres
from tests.support.forms import ALL_OK, FORMS, Site, prepare, use
from tests.support.servers import QUICK_POSTGRES, Databases, name_in, server_folder

FEW = (
    "a password with # ? : as it is",
    "socket by host",
    "lists as options",
    "search_path",
    "DB_HOST is an IPv6 address",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedPostgres, Site]]:
    with server_folder() as folder, server_folder() as sockets:
        sockets.chmod(0o777)
        config = {
            **QUICK_POSTGRES,
            "listen_addresses": "127.0.0.1,::1",
            "unix_socket_directories": str(sockets),
        }
        with EmbeddedPostgres(folder, config=config) as server:
            prepare(server)
            yield server, Site(server.port, sockets, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", FEW)
def test_every_command_comes_to_the_same_database(
    name: str, site: tuple[EmbeddedPostgres, Site], redis_url: str
) -> None:
    server, place = site
    databases = Databases(server.url)
    url = databases.create()
    with psycopg.connect(url) as db:
        db.execute("CREATE SCHEMA risk")
    assert use(FORMS[name](replace(place, database=name_in(url))), redis_url) == ALL_OK
    databases.drop(url)
