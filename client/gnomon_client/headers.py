"""The gRPC metadata that a call carries: the caller's own, and the current trace context."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gnomon_client.errors import InputError

# Text for ordinary keys, bytes for keys that end in "-bin".
Metadata = Mapping[str, str | bytes]
Headers = tuple[tuple[str, str | bytes], ...]

# gRPC over HTTP/2, "Custom-Metadata": keys of these characters, values of printable ASCII.
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(r"[ -~]*")


def checked(metadata: Metadata | None) -> Headers:
    """Returns metadata with keys in lower case; raises InputError for what gRPC cannot carry."""
    return tuple((_checked_key(key), _checked_value(key, value)) for key, value in (metadata or {}).items())


def with_context(headers: Headers, inject: Callable[[dict[str, str]], None] | None) -> Headers:
    """Returns the headers and the current trace context (W3C Trace Context and Baggage by default).

    A key that the caller gave stays as given.
    """
    if inject is None:
        return headers
    carrier: dict[str, str] = {}
    inject(carrier)
    given = {key for key, _ in headers}
    return headers + tuple((key.lower(), value) for key, value in carrier.items() if key.lower() not in given)


def injector() -> Callable[[dict[str, str]], None] | None:
    """Returns OpenTelemetry's inject if its API is installed; it then honours OTEL_PROPAGATORS."""
    try:
        from opentelemetry import propagate
    except ImportError:
        return None
    return propagate.inject


def _checked_key(key: str) -> str:
    lower = key.lower()
    if not _KEY.fullmatch(lower):
        raise InputError(f"metadata: expected a key of letters, digits, '_', '.' and '-', received {key!r}")
    return lower


def _checked_value(key: str, value: str | bytes) -> str | bytes:
    if key.lower().endswith("-bin"):
        if not isinstance(value, bytes):
            raise InputError(f"metadata '{key}': expected bytes, received {type(value).__name__}")
    elif not isinstance(value, str) or not _VALUE.fullmatch(value):
        # The value itself is never shown: it may be a credential.
        shown = "other characters" if isinstance(value, str) else type(value).__name__
        raise InputError(f"metadata '{key}': expected printable ASCII text, received {shown}")
    return value
