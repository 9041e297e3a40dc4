"""The outline of a message: its raw contents, and its tensors still serialised.

A sub-message travels as bytes do (protobuf encoding, "Length-Delimited Records"), so that the same message may be read
by a schema that leaves its tensors unparsed. Their bytes are then a key under which what they say is looked up, at a
third of the cost of reading names, datatypes and shapes again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from gnomon_protos import inference_pb2 as pb

_FIELD: Final = descriptor_pb2.FieldDescriptorProto


class Outline(Protocol):
    """A request's inputs or a response's outputs."""

    @property
    def id(self) -> bytes:
        """The id of the request, in UTF-8; empty without one."""

    @property
    def tensors(self) -> Sequence[bytes]:
        """Each tensor's message, serialised."""

    @property
    def raw(self) -> Sequence[bytes]:
        """The raw contents."""


class _Parse(Protocol):
    def __call__(self, data: bytes, /) -> Outline:
        """Returns the outline of a serialised message; raises google.protobuf.message.DecodeError."""


def _parser(identity: int, tensors: int, raw: int) -> _Parse:
    """Returns the parser of a message with its id, its tensors and its raw contents at these field numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="outline.proto", package="gnomon.outline", syntax="proto3")
    message = file.message_type.add(name="Outline")
    message.field.add(name="id", number=identity, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_BYTES)
    for name, number in (("tensors", tensors), ("raw", raw)):
        message.field.add(name=name, number=number, label=_FIELD.LABEL_REPEATED, type=_FIELD.TYPE_BYTES)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("gnomon.outline.Outline"))
    return cast(_Parse, made.FromString)


of_request: Final = _parser(
    pb.ModelInferRequest.ID_FIELD_NUMBER,
    pb.ModelInferRequest.INPUTS_FIELD_NUMBER,
    pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER,
)
of_response: Final = _parser(
    pb.ModelInferResponse.ID_FIELD_NUMBER,
    pb.ModelInferResponse.OUTPUTS_FIELD_NUMBER,
    pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER,
)
