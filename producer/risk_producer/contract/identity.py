"""The identity of a database beside the streams that are stored in it: what it looks like, and what to say
where it is another one's."""

from __future__ import annotations

import re
from typing import Final

_IDENTITY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def shown(held: bytes | str) -> str:
    """What Redis holds as an identity, for a person, whatever bytes they are."""
    text = held.decode(errors="backslashreplace") if isinstance(held, bytes) else held
    return text if _IDENTITY.fullmatch(text) else f"{text[:50]!r}, which is no identity"


def difference(key: str, held: bytes | str, own: str) -> str | None:
    """The sentence for a key that names another database than `own`; None: it names this one."""
    if held in (own, own.encode()):
        return None
    return (
        f"Redis' key {key} names the database {shown(held)}, and this database is {own}. Two deployments on "
        "one Redis need different settings of RISK_NAMESPACE; after a restore of Redis or Postgres "
        "`riskstream rebind` decides for this database"
    )
