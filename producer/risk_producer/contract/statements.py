"""SQL in files: the statements of `NAME.sql` beside the module that uses them, under `-- name: …`."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final, LiteralString, cast

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def statements(package: str, file: str) -> dict[str, LiteralString]:
    """Name -> statement, as they stand in a file of a package. They are part of the program, like its code.

    Raises ValueError where two have one name, or one is empty.
    """
    text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    _, *pieces = _NAME.split(text)
    found: dict[str, LiteralString] = {}
    for name, statement in zip(pieces[0::2], pieces[1::2], strict=True):
        bare = statement.strip().removesuffix(";")
        if not bare or name in found:
            raise ValueError(f"{package}/{file}: the statement {name} is empty, or there are two of it")
        found[name] = cast(LiteralString, bare)
    return found
