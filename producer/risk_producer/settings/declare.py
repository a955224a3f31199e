"""How settings are declared, read and shown; this module knows none of them.

A setting is a field of a struct, annotated with env(). Its value is that of its variable in the environment,
else that of its key in the JSON file named by RISK_CONFIG, else the field's default. The key is the name of
the variable in lower case. An empty text counts as not set, in the environment and in the file. A secret may
stand in a file instead (NAME_FILE, name_file): see secret_file.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from risk_producer.errors import ConfigurationError
from risk_producer.settings import secret_file
from risk_producer.settings.urls import MASK, mask

CONFIG_FILE: Final = "RISK_CONFIG"
ENVIRONMENT: Final = "the environment"
_SIMILAR: Final = 0.85  # REDIS_URI is meant to be REDIS_URL, REDIS_PORT is something else
_OTHERS: Final = frozenset({"POSTGRES_USER"})  # of the container image of Postgres


def env(
    name: str, description: str, *, secret: bool = False, group: str = "", expects: str = "", **bounds: Any
) -> Meta:
    """How a setting is called outside, what it means, and msgspec's bounds for it.

    group: the object of the JSON file in which its key may stand. expects: for the message that refuses a
    value, where the type does not say it.
    """
    extra = {"env": name, "secret": secret, "group": group, "expects": expects}
    return Meta(description=description, extra=extra, **bounds)


@cache
def _types(struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """field -> its annotated type. msgspec evaluates all of them anew each time, which takes milliseconds."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def declared(struct: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """field -> the arguments of env(), by name, in order of declaration."""
    return {
        name: {**(meta.extra or {}), "description": meta.description}
        for name, annotated in _types(struct).items()
        for meta in get_args(annotated)[1:]
    }


def read(struct: type[msgspec.Struct], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(field -> value, field -> where it is from), of the settings that are set; each of them checked alone.

    Raises ConfigurationError that names the variable, or the file's key, and what it expects.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    known = declared(struct)
    types = _types(struct)
    config = environ.get(CONFIG_FILE)
    content = _read_file(config, known)
    names = variables(struct)
    if unknown := sorted(content.keys() - {name.lower() for name in names}):
        keys = ", ".join(sorted(meta["env"].lower() for meta in known.values()))
        raise ConfigurationError(f"{config}: unknown key {unknown[0]!r}; known are: {keys}")
    texts = {name: text for name in names if (text := environ.get(name, "").strip())}
    for field, meta in known.items():
        name, file = meta["env"], _file_of(meta)
        found = _given(texts, name, file, "") or _given(content, name.lower(), file.lower(), f" in {config}")
        if found is not None:
            value, origins[field] = found
            is_number = type(value) is int and _plain(types[field]) is str  # a port, a password
            values[field] = str(value) if is_number else value
    for field, value in values.items():
        check(struct, field, value, origins[field])
    return values, origins


def _given(layer: Mapping[str, Any], name: str, file: str, where: str) -> tuple[Any, str] | None:
    """(value, where it is from) of a setting, where the environment, or the JSON file, has it.

    name, file: what the value, or the path of a file with it, is called there; file is empty where there is
    no such name. where: for messages, behind a name. Raises ConfigurationError.
    """
    value, path = layer.get(name, ""), layer.get(file)
    if path in ("", None):
        return None if value == "" else (value, f"{name}{where}")
    if value not in ("", None):
        raise ConfigurationError(f"{name}{where} and {file}{where} are both set: leave one of them out")
    if not isinstance(path, str):
        raise ConfigurationError(f"{file}{where} expects the path of a file, as a text")
    return secret_file.read(path, f"{file}{where}"), f"{file}{where} (file {path})"


def secret(environ: Mapping[str, str], name: str) -> str:
    """The value of a secret variable that is no setting, or of the file that NAME_FILE names.

    Empty: neither is set. Raises ConfigurationError.
    """
    found = _given(environ, name, f"{name}{secret_file.SUFFIX}", "")
    return "" if found is None else str(found[0])


def variables(struct: type[msgspec.Struct]) -> frozenset[str]:
    """Every variable that is read: those of the settings, and NAME_FILE of each that is secret."""
    metas = declared(struct).values()
    return frozenset({meta["env"] for meta in metas} | {_file_of(meta) for meta in metas} - {""})


def _file_of(meta: Mapping[str, Any]) -> str:
    """The variable that names a file with the setting's value; empty where it is no secret."""
    return f"{meta['env']}{secret_file.SUFFIX}" if meta["secret"] else ""


def shown(settings: msgspec.Struct) -> dict[str, str]:
    """variable -> the value in force as text, secrets masked."""
    texts = {}
    for field, meta in declared(type(settings)).items():
        value = getattr(settings, field)
        if value is None:
            text = ""
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = str(value)
            if "://" in text and (field.endswith("_url") or not meta["secret"]):
                text = mask(text)  # a URL may have come where none is expected
            elif meta["secret"]:
                text = MASK
        texts[meta["env"]] = text
    return texts


def misspelt(struct: type[msgspec.Struct], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that are no setting -> the setting that is spelt almost like it."""
    known = {CONFIG_FILE, *variables(struct)}
    alike: dict[str, list[str]] = {}  # by what they begin with: MY_REDIS_URL is another program's
    for each in sorted(known):
        alike.setdefault(each[0], []).append(each)
    return {
        name: meant
        for name in environ
        if name not in known and name not in _OTHERS
        for meant in get_close_matches(name.upper(), alike.get(name[:1].upper(), []), n=1, cutoff=_SIMILAR)
    }


def _read_file(path: str | None, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """key -> value; those that stand in a group too."""
    if not path:
        return {}
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError where the name holds a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        shown = mask(path) if "://" in path else path  # a URL may have come where none is expected
        raise ConfigurationError(f"{CONFIG_FILE} names {shown!r}, which cannot be read: {why}") from None
    try:
        content = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{CONFIG_FILE} names {path!r}, which is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold a JSON object")
    for group in sorted({meta["group"] for meta in known.values()} - {""}):
        keys = sorted(meta["env"].lower() for meta in known.values() if meta["group"] == group)
        grouped = content.pop(group, {})
        if not isinstance(grouped, dict) or set(grouped) - set(keys):
            raise ConfigurationError(f"{group} in {path} expects an object with {', '.join(keys)}")
        content |= grouped
    return content


def _check_text(value: object, origin: str) -> None:
    """Bytes of the environment that are not UTF-8 come as surrogates, which nothing can send on."""
    if isinstance(value, str):
        if not value:
            raise ConfigurationError(f"{origin} is an empty text; leave it out instead")
        if "\0" in value:
            raise ConfigurationError(f"{origin} contains a zero byte")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{origin} contains bytes that are not UTF-8") from None


def check(struct: type[msgspec.Struct], field: str, value: Any, origin: str, *, strict: bool = False) -> None:
    """Check one setting alone, so that an error can name where it came from, and never shows a secret.

    strict: a text is no number. Raises ConfigurationError.
    """
    _check_text(value, origin)
    annotated = _types(struct)[field]
    try:
        msgspec.convert(value, annotated, strict=strict)
    except msgspec.ValidationError:
        meta = declared(struct)[field]
        shown = "the value given" if meta["secret"] or "://" in str(value) else repr(value)
        raise ConfigurationError(
            f"{origin} expects {_expected(annotated)}, got {shown}. {meta['description']}"
        ) from None


def _plain(annotated: Any) -> Any:
    """The type of a field without its bounds and without None."""
    plain = get_args(annotated)[0]
    if get_origin(plain) is Literal:
        return plain
    return next((each for each in get_args(plain) if each is not type(None)), plain)


def _expected(annotated: Any) -> str:
    plain, meta = _plain(annotated), get_args(annotated)[1]
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[plain]
    if meta.extra["expects"]:
        kind = meta.extra["expects"]
    if meta.ge is not None:
        kind += f" from {meta.ge}"
    if meta.gt is not None:
        kind += f" above {meta.gt}"
    if meta.le is not None:
        kind += f" to {meta.le}"
    return kind
