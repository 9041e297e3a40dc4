"""The errors that gnomon answers with, each with its gRPC status.

    GnomonError
    ├── InvalidRequest       INVALID_ARGUMENT     the client's mistake
    ├── NotFound             NOT_FOUND            no such model or version
    ├── AlreadyExists        ALREADY_EXISTS       the name is taken
    ├── NotOffered           UNIMPLEMENTED        a feature that this server does not have
    ├── NotReady             UNAVAILABLE          loading, or the server is shutting down
    ├── Exhausted            RESOURCE_EXHAUSTED   a limit is reached
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    the call's time ran out
    ├── Cancelled            CANCELLED            the caller gave up
    ├── Refused              FAILED_PRECONDITION  a change that the state does not allow
    │   └── LoadError                             a version that cannot be served
    ├── Forbidden            PERMISSION_DENIED    a change that a setting would have to allow
    └── Internal             INTERNAL             a failure whose detail stays in the log

The status is a name of grpc.StatusCode, kept as text so that only the transports import grpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar, Final

# Longest text of a client that an error repeats.
QUOTED: Final = 64
# Most names that an error lists.
LISTED: Final = 16


class GnomonError(Exception):
    """Base of all errors with a meaning for the caller; its text is what the caller reads."""

    status: ClassVar[str] = "INTERNAL"


class InvalidRequest(GnomonError):
    """The request is not what the model or the protocol declares."""

    status = "INVALID_ARGUMENT"


class NotFound(GnomonError):
    """The model or version does not exist here."""

    status = "NOT_FOUND"


class AlreadyExists(GnomonError):
    """The name is taken."""

    status = "ALREADY_EXISTS"


class NotOffered(GnomonError):
    """A method or feature that this server does not offer."""

    status = "UNIMPLEMENTED"


class NotReady(GnomonError):
    """It exists and cannot answer now; a retry may succeed."""

    status = "UNAVAILABLE"


class Exhausted(GnomonError):
    """A configured limit is reached."""

    status = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(GnomonError):
    """The call's time ran out before its work began."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(GnomonError):
    """The caller gave up before its work began."""

    status = "CANCELLED"


class Refused(GnomonError):
    """The current state does not allow the change."""

    status = "FAILED_PRECONDITION"


class LoadError(Refused):
    """A version that cannot be served, with the reason."""


class Forbidden(GnomonError):
    """The settings do not allow it."""

    status = "PERMISSION_DENIED"


class Internal(GnomonError):
    """A failure inside; details are in the log only."""

    status = "INTERNAL"


BY_STATUS: Final = MappingProxyType({error.status: error for error in GnomonError.__subclasses__()})


def error_of(status: str, text: str) -> GnomonError:
    """Returns an error that came from another process; Internal for a status that is none of these."""
    return BY_STATUS.get(status, Internal)(text)


def quoted(text: str) -> str:
    """Returns a client's text as it may stand in an error: ASCII, escaped, cut."""
    cut = text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
    return f"'{ascii(cut)[1:-1]}'"


def listed(names: Sequence[str]) -> str:
    """Returns names as they may stand in an error: ASCII, and of many the first ones."""
    shown = ascii(list(names[:LISTED]))
    return shown if len(names) <= LISTED else f"{shown[:-1]}, and {len(names) - LISTED} more]"
