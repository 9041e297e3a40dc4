"""Redaction: addresses as they may be shown, without the passwords in them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
# What stands between a user's name and the last @, and what libpq calls a password in a query.
_SECRETS: Final = (
    re.compile(r"(?P<before>^[A-Za-z][A-Za-z0-9+.-]*://[^:/?#@]*:)(?P<secret>.+)(?=@)", re.DOTALL),
    re.compile(r"(?P<before>\b(?:ssl)?password\s*=\s*)(?P<secret>'[^']*'|[^\s&']+)", re.IGNORECASE),
)


def redacted(address: str) -> str:
    """Returns an address with its passwords hidden."""
    for pattern in _SECRETS:
        address = pattern.sub(rf"\g<before>{HIDDEN}", address)
    return address


def secrets(address: str) -> tuple[str, ...]:
    """Returns the passwords of an address, as they are written in it."""
    return tuple(found["secret"] for pattern in _SECRETS for found in pattern.finditer(address))


def without_secrets(text: str, address: str) -> str:
    """Returns a text about an address without its passwords, encoded or not."""
    for secret in secrets(address):
        for form in (secret, unquote(secret)):
            text = text.replace(form, HIDDEN)
    return text
