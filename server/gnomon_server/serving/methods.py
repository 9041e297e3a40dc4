"""Unary methods over protobuf messages: what is no message of the method's kind is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gnomon_server.errors import InvalidRequest
from gnomon_server.serving.transport import Call, Unary

Request = TypeVar("Request", bound=Message)


def parsed(kind: type[Request], message: bytes) -> Request:
    """Returns a message of this kind; raises InvalidRequest."""
    try:
        return kind.FromString(message)
    except DecodeError:
        name, size = kind.DESCRIPTOR.name, len(message)
        raise InvalidRequest(f"{name}: expected a protobuf message, received {size} bytes that are none") from None


def unary(kind: type[Request], answer: Callable[[Request], Message]) -> Unary:
    """Returns a method that answers at once."""
    return asking(kind, lambda call, request: call.answer(answer(request).SerializeToString()))


def asking(kind: type[Request], handle: Callable[[Call, Request], None]) -> Unary:
    """Returns a method that ends its call whenever it can."""
    return Unary(lambda call: handle(call, parsed(kind, call.message)))
