"""How settings are declared, read and shown; it knows none of them.

A setting is a field of a struct, annotated with env(). Its value is that of its variable in the environment,
else that of its key in the JSON file named by RISK_CONFIG, else the field's default. The key is the name of
the variable in lower case; enable_persistence stands under feature_flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import MASK, mask

CONFIG_FILE: Final = "RISK_CONFIG"
PORTS: Final = r"^\d{1,5}(,\d{1,5})*$"
_SIMILAR: Final = 0.85  # REDIS_URI is meant to be REDIS_URL, REDIS_PORT is something else


def env(name: str, description: str, *, secret: bool = False, **bounds: Any) -> Meta:
    """How a setting is called outside, what it means, and msgspec's bounds for it."""
    return Meta(description=description, extra={"env": name, "secret": secret}, **bounds)


def declared(struct: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """field -> {"env": variable, "secret": bool, "description": text}, in order of declaration."""
    return {
        field.name: {**(meta.extra or {}), "description": meta.description}
        for field in msgspec.structs.fields(struct)
        for meta in get_args(field.type)[1:]
    }


def read(struct: type[msgspec.Struct], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(field -> value, field -> where it is from), of the settings that are set; each of them checked alone.

    Raises ConfigurationError that names the variable, or the file's key, and what it expects.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    from_file = _read_file(environ.get(CONFIG_FILE))
    known = declared(struct)
    for field, meta in known.items():
        variable = meta["env"]
        key = variable.lower()
        if key in from_file:
            value = from_file.pop(key)
            values[field] = str(value) if field == "db_port" and type(value) is int else value
            origins[field] = f"{key} in {environ[CONFIG_FILE]}"
        if environ.get(variable, "") != "":
            values[field] = environ[variable].strip()
            origins[field] = variable
        _check_text(values.get(field), origins.get(field, ""))
    keys = {meta["env"].lower() for meta in known.values()}
    for key in from_file:
        if key not in keys:
            raise ConfigurationError(
                f"{environ[CONFIG_FILE]}: unknown key {key!r}; known are: {', '.join(sorted(keys))}"
            )
    for field, value in values.items():
        check(struct, field, value, origins[field])
    return values, origins


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
            text = (mask(value) if "://" in str(value) else MASK) if meta["secret"] else str(value)
        texts[meta["env"]] = text
    return texts


def misspelt(struct: type[msgspec.Struct], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that are no setting -> the setting that is spelt almost like it."""
    known = [CONFIG_FILE, *(meta["env"] for meta in declared(struct).values())]
    return {
        name: meant
        for name in environ
        if name.startswith(("RISK_", "REDIS_", "DB_")) and name not in known
        for meant in get_close_matches(name, known, n=1, cutoff=_SIMILAR)
    }


def _read_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError where the name holds a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{CONFIG_FILE} names {path!r}, which cannot be read: {why}") from None
    try:
        content = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{CONFIG_FILE} names {path!r}, which is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold a JSON object")
    flags = content.pop("feature_flags", {})
    if not isinstance(flags, dict) or set(flags) - {"enable_persistence"}:
        raise ConfigurationError(f"feature_flags in {path} expects an object with enable_persistence")
    return {**content, **flags}


def _check_text(value: object, origin: str) -> None:
    """Bytes of the environment that are not UTF-8 come as surrogates, which nothing can send on."""
    if isinstance(value, str):
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
    struct_field = next(f for f in msgspec.structs.fields(struct) if f.name == field)
    try:
        msgspec.convert(value, struct_field.type, strict=strict)
    except msgspec.ValidationError:
        meta = declared(struct)[field]
        shown = "the value given" if meta["secret"] else repr(value)
        raise ConfigurationError(
            f"{origin} expects {_expected(struct_field.type)}, got {shown}. {meta['description']}"
        ) from None


def _expected(annotated: Any) -> str:
    plain, *metas = get_args(annotated)
    options = [arg for arg in get_args(plain) if arg is not type(None)] or [plain]
    for option in options:
        if get_origin(option) is Literal:
            return "one of " + ", ".join(get_args(option))
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[options[0]]
    meta = metas[0]
    if meta.pattern == PORTS:
        kind = "a whole number"
    if meta.ge is not None:
        kind += f" from {meta.ge}"
    if meta.gt is not None:
        kind += f" above {meta.gt}"
    if meta.le is not None:
        kind += f" to {meta.le}"
    return kind
