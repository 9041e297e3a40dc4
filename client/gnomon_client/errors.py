"""The errors that a call can end with: one class for every gRPC status, and one for inputs that are not sent at all.

    ClientError
    ├── Cancelled            CANCELLED            the call was cancelled
    ├── Unknown              UNKNOWN              the server gave no reason that gRPC knows
    ├── InvalidArgument      INVALID_ARGUMENT     the request is not what the model or the protocol declares
    │   └── InputError                            found before anything was sent; also a ValueError
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    the call's time ran out
    ├── NotFound             NOT_FOUND            no such model, version or shadow
    ├── AlreadyExists        ALREADY_EXISTS       it is there already
    ├── PermissionDenied     PERMISSION_DENIED    the caller is known and may not do this
    ├── ResourceExhausted    RESOURCE_EXHAUSTED   a limit is reached: a full queue, a message too large
    ├── FailedPrecondition   FAILED_PRECONDITION  the state does not allow it, such as a promotion without a verdict
    ├── Aborted              ABORTED              the change lost against another one
    ├── OutOfRange           OUT_OF_RANGE         past the end of what there is
    ├── Unimplemented        UNIMPLEMENTED        the server does not offer it
    ├── Internal             INTERNAL             a failure inside the server, or an answer that cannot be read
    ├── Unavailable          UNAVAILABLE          nobody answers, or the model is loading: a retry may succeed
    ├── DataLoss             DATA_LOSS            data is lost or corrupt
    └── Unauthenticated      UNAUTHENTICATED      the caller is not known

`status` is the name of the grpc.StatusCode, `details` the text that says what was expected and what was received.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar, Final


class ClientError(Exception):
    """Base of all errors of this package."""

    status: ClassVar[str] = "UNKNOWN"

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.details = details

    def __str__(self) -> str:
        return f"{self.status}: {self.details}"


class Cancelled(ClientError):
    """The call was cancelled."""

    status = "CANCELLED"


class Unknown(ClientError):
    """The server gave no reason that gRPC knows."""

    status = "UNKNOWN"


class InvalidArgument(ClientError):
    """The request is not what the model or the protocol declares."""

    status = "INVALID_ARGUMENT"


class InputError(InvalidArgument, ValueError):
    """What the caller gave cannot be sent; the text names the input, what was expected and what was received."""


class DeadlineExceeded(ClientError):
    """The call's time ran out."""

    status = "DEADLINE_EXCEEDED"


class NotFound(ClientError):
    """No such model, version or shadow."""

    status = "NOT_FOUND"


class AlreadyExists(ClientError):
    """It is there already."""

    status = "ALREADY_EXISTS"


class PermissionDenied(ClientError):
    """The caller is known and may not do this."""

    status = "PERMISSION_DENIED"


class ResourceExhausted(ClientError):
    """A limit is reached."""

    status = "RESOURCE_EXHAUSTED"


class FailedPrecondition(ClientError):
    """The state does not allow it."""

    status = "FAILED_PRECONDITION"


class Aborted(ClientError):
    """The change lost against another one."""

    status = "ABORTED"


class OutOfRange(ClientError):
    """Past the end of what there is."""

    status = "OUT_OF_RANGE"


class Unimplemented(ClientError):
    """The server does not offer it."""

    status = "UNIMPLEMENTED"


class Internal(ClientError):
    """A failure inside the server, or an answer that cannot be read."""

    status = "INTERNAL"


class Unavailable(ClientError):
    """Nobody answers, or the model is loading; a retry may succeed."""

    status = "UNAVAILABLE"


class DataLoss(ClientError):
    """Data is lost or corrupt."""

    status = "DATA_LOSS"


class Unauthenticated(ClientError):
    """The caller is not known."""

    status = "UNAUTHENTICATED"


BY_STATUS: Final = MappingProxyType({error.status: error for error in ClientError.__subclasses__()})


def error_of(status: str, details: str) -> ClientError:
    """Returns the error of a status, named as in grpc.StatusCode; Unknown for a name that gRPC does not have."""
    return BY_STATUS.get(status, Unknown)(details)
