"""Elements of HTML and SVG. A text in them is escaped, wherever it comes from; Markup alone is not.

What comes out is well-formed XML too.
"""

from __future__ import annotations

from html import escape
from typing import Final

_VOID: Final = frozenset({"br", "input", "link", "meta", "path", "rect", "use", "line"})
_SPACES: Final = frozenset("\n\u00a0\u2009\u202f")
"""What str.isprintable() refuses, and texts of a page may have."""


class Markup(str):
    """What is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str | None, **attributes: str | float | None) -> Markup:
    """<name attributes>content</name>. None is left out.

    Attributes: an underscore is a hyphen, one at the end is nothing (class_).
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            given = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(f'{key.removesuffix("_").replace("_", "-")}="{_escaped(given)}"')
    if name in _VOID:
        return Markup(f"<{' '.join(words)}/>")
    return Markup(f"<{' '.join(words)}>{joined(*content)}</{name}>")


def joined(*content: str | None) -> Markup:
    """One after another, what is no Markup escaped."""
    return Markup("".join(each if isinstance(each, Markup) else _escaped(each) for each in content if each))


def _escaped(text: str) -> str:
    """Nothing in it marks up; what cannot be seen, or turns how one writes, is a number."""
    if not text.isprintable():
        text = "".join(each if each.isprintable() or each in _SPACES else _number(each) for each in text)
    return escape(text)


def _number(character: str) -> str:
    return ascii(character)[1:-1]
