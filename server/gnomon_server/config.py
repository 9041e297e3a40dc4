"""The server's settings: flags over environment over a TOML file over defaults, checked once into frozen values."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from gnomon_server.errors import InvalidRequest

Kind = TypeVar("Kind")
# Settings that are tables of their own, and have no environment variable.
TABLES = ("policy", "models", "mirror", "tls")
Transport = Literal["http2", "grpcio"]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Bytes = Annotated[int, msgspec.Meta(ge=1024)]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a shadow may be promoted."""

    # Least share of rows on which a shadow agrees with its primary.
    min_agreement: Share = 0.95
    # Of the interval that must lie above (or below) min_agreement.
    confidence: Share = 0.95
    # Compared requests before any verdict.
    min_requests: Count = 1000


class MirrorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the mirror."""

    # Bytes that a frontend keeps for one shadow that does not read; what comes after is dropped and counted.
    feed_bytes: Bytes = 16 << 20
    # Bytes that a shadow worker keeps waiting.
    queue_bytes: Bytes = 64 << 20
    # Seconds after the primary's answer by which the shadow must have answered.
    deadline: Positive = 10.0
    # Most rows in one coalesced batch.
    batch_rows: Count = 256


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files of the gRPC port; without a certificate it speaks plain text."""

    certificate: str = ""
    key: str = ""
    # Authorities that sign clients' certificates: with it, a client must have one.
    client_ca: str = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of `gnomon serve`."""

    repository: str = "models"
    state: str = "state"
    grpc: str = "0.0.0.0:8001"
    http: str = "127.0.0.1:8002"
    control: str = "127.0.0.1:8003"
    # What speaks gRPC: "http2" over ngh2, or "grpcio".
    transport: Transport = "http2"
    # Frontend processes that share the gRPC port.
    workers: Count = 1
    # Seconds between looks at the repository.
    poll: Positive = 1.0
    # Seconds that calls in flight and the mirror may take at shutdown.
    grace: Positive = 10.0
    max_message_bytes: Bytes = 64 << 20
    policy: Policy = Policy()
    # Policies of single models; what they leave out comes from `policy`.
    models: dict[str, dict[str, float | int]] = {}
    mirror: MirrorSettings = MirrorSettings()
    tls: TlsSettings = TlsSettings()

    def policy_of(self, model: str) -> Policy:
        """Returns the policy of one model."""
        return _policy(self, model, "settings")


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
    settings = _convert(merged, Settings, where)
    if bool(settings.tls.certificate) != bool(settings.tls.key) or (settings.tls.client_ca and not settings.tls.key):
        raise InvalidRequest(f"{where}: tls: expected certificate and key, and client_ca beside them only")
    for model in settings.models:
        _policy(settings, model, where)
    return settings


def to_toml(settings: Settings) -> str:
    """Returns the settings as the text of a TOML file that gives the same settings."""
    tables = {"": msgspec.to_builtins(settings)}
    for name in ("policy", "mirror", "tls"):
        tables[name] = tables[""].pop(name)
    tables |= {f"models.{_quoted(name)}": table for name, table in tables[""].pop("models").items()}
    parts = []
    for name, table in tables.items():
        lines = [f"{key} = {_quoted(value) if isinstance(value, str) else value}" for key, value in table.items()]
        parts.append("\n".join([f"[{name}]", *lines] if name else lines))
    return "\n\n".join(parts)


def _policy(settings: Settings, model: str, where: str) -> Policy:
    values = {**msgspec.structs.asdict(settings.policy), **settings.models.get(model, {})}
    return _convert(values, Policy, f"{where}: models.{model}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{file}: {error}") from None


def _convert(values: Mapping[str, Any], kind: type[Kind], where: str) -> Kind:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
