"""Where settings come from: flags over environment over a TOML file over defaults, checked once."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gnomon_server import lines, predicates
from gnomon_server.conversion import Wrong, converted
from gnomon_server.errors import InvalidRequest
from gnomon_server.redaction import redacted
from gnomon_server.settings import Policy, Settings

# A TOML key that needs no quotes.
BARE = re.compile(r"[A-Za-z0-9_-]+")
# Settings that are tables of their own, and have no environment variable.
TABLES = ("policy", "models", "mirror", "guard", "tls", "audit", "alerts")


def load(flags: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Returns the settings; flags that are None do not count.

    Raises InvalidRequest with one line that names the wrong setting.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged |= _read(file)
    for field in msgspec.structs.fields(Settings):
        text = environment.get(f"GNOMON_{field.name.upper()}")
        if text is not None and field.name not in TABLES:
            merged[field.name] = text
    merged |= {name: value for name, value in flags.items() if value is not None}
    where = str(file) if file else "settings"
    try:
        settings = _checked(merged)
    except Wrong as error:
        raise InvalidRequest(f"{_place(file, error.path)}: {error}") from None
    if bool(settings.tls.certificate) != bool(settings.tls.key) or (settings.tls.client_ca and not settings.tls.key):
        raise InvalidRequest(f"{where}: tls: expected certificate and key, and client_ca beside them only")
    return settings


def presentable(settings: Settings) -> Settings:
    """Returns the settings as anybody may read them: with `***` in the place of passwords."""
    alerts = msgspec.structs.replace(settings.alerts, webhook=redacted(settings.alerts.webhook))
    return msgspec.structs.replace(settings, store=redacted(settings.store), alerts=alerts)


def to_toml(settings: Settings) -> str:
    """Returns the settings as the text of a TOML file that gives the same settings."""
    return "\n\n".join(_tables("", msgspec.to_builtins(settings)))


def _tables(name: str, table: Mapping[str, Any]) -> list[str]:
    """Returns a TOML table and those in it, the plain values first."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    tables = ["\n".join([f"[{name}]", *lines] if name else lines)] if lines else []
    for key in (key for key in table if key not in plain):
        tables += _tables(f"{name}.{_key(key)}" if name else _key(key), table[key])
    return tables


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _checked(values: Mapping[str, Any]) -> Settings:
    settings = converted(values, Settings, ())
    _check_segments(settings.policy, ("policy",))
    named = len(settings.audit.approvers)
    for name in (*settings.models, "*"):
        for version in settings.model(name).shadows:
            settings.mirror_of(name, int(version))
        policy = settings.policy_of(name)
        _check_segments(policy, ("models", name, "policy"))
        kept = settings.model(name).feedback.keep_seconds
        if 0 < kept < policy.labels:
            path = ("models", name, "feedback", "keep_seconds")
            expected = f"expected 0, or policy.labels, {policy.labels:g}, or more, received {kept:g}"
            raise Wrong(path, f"{'.'.join(path)}: {expected}")
        needed = policy.approvals
        if needed > named:
            path = ("models", name, "policy", "approvals")
            raise Wrong(path, f"{'.'.join(path)}: expected at most {named} approvers, received {needed}")
    return settings


def _check_segments(policy: Policy, path: tuple[str, ...]) -> None:
    for name, segment in policy.segments.items():
        try:
            predicates.parse(segment.where)
        except InvalidRequest as error:
            at = (*path, "segments", name, "where")
            raise Wrong(at, f"{'.'.join(at)}: {error}") from None


def _place(file: Path | None, path: tuple[str, ...]) -> str:
    """Returns the file and, where the setting stands in it, the line."""
    if file is None:
        return "settings"
    # What a model has may come from all models, and a policy from the one above.
    above = (("models", "*", *path[2:]), path[2:]) if path[:1] == ("models",) else ()
    line = lines.find(file.read_text(), path, *above)
    return f"{file}:{line}" if line else str(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{file}: {error}") from None
