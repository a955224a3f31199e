"""The Lua scripts that Redis runs: where their text is, and how they read a number."""

from __future__ import annotations

from importlib import resources

from risk_producer.contract.wire import EPOCH_MAX


def script(package: str, *names: str) -> str:
    """The text of a script beside a package's modules, with what all scripts have in common before it.

    names: of the script, after those of the files that it shares with some others.
    """
    return _text("risk_producer.contract", "reading") + "".join(_text(package, name) for name in names)


def number_in(raw: bytes | str | None) -> int | None:
    """The number in a field of Redis, as the scripts read it; None where there is none that can be used."""
    text = raw.decode("latin-1") if isinstance(raw, bytes) else raw
    if text is None or not 0 < len(text) <= 16 or not (text.isascii() and text.isdigit()):
        return None
    return number if (number := int(text)) <= EPOCH_MAX else None


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(f"{name}.lua").read_text()
