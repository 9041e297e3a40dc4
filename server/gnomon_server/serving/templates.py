"""Templates: requests whose bytes differ from an earlier one only in their id and numbers, read without parsing.

A client sends the same request again and again but for its id and its raw tensors. Protobuf writers emit fields in
order, so such a message is: model name and version, id, everything about the tensors, raw contents. Once one has been
parsed and checked, the next of its kind is recognised by comparing bytes. Whatever is not recognised to the last byte
is parsed, so that a template never decides what is valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import FIXED
from gnomon_server.models.servable import Servable
from gnomon_server.serving.answers import varint
from gnomon_server.serving.inference import Layout
from gnomon_server.serving.split import Split

# Tags of model_name, model_version, id and raw_input_contents: field number << 3 | length-delimited.
MODEL_NAME: Final = 0x0A
MODEL_VERSION: Final = 0x12
ID: Final = 0x1A
RAW: Final = b"\x3a"
# Lengths below this are one byte on the wire.
ONE_BYTE: Final = 0x80
# Templates that are kept; they come from clients, so there must be a bound.
MOST: Final = 512
# Layouts of one length for one model: different shapes of the same size.
MOST_ALIKE: Final = 4
# Bytes of a request beside its id and numbers; fields that nobody knows would make it as long as a client likes.
MOST_HEAD: Final = 4096


# Kinds are told apart even where requests to an older route table still wait.
_NUMBERS: Final = count()

# A request that needs no parsing: its layout, its id, and the raw contents of each input.
Recognised = tuple[Layout, bytes, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class _Template:
    layout: Layout
    # The bytes before the id, and how many come behind it.
    begin: bytes
    rest: int
    # The bytes between id and numbers, and the length of the numbers, of each input.
    parts: tuple[tuple[bytes, int], ...]

    def read(self, message: bytes) -> Recognised | None:
        """Returns the parts of a message that differs from the template's in its id and numbers at most."""
        begin, position = len(self.begin), len(message) - self.rest
        if position < begin or not message.startswith(self.begin):
            return None
        request_id = b""
        if position > begin:
            request_id = message[begin + 2 : position]
            # Anything but ASCII might be no UTF-8, which only a parser refuses.
            if message[begin] != ID or message[begin + 1] != len(request_id) or not request_id.isascii():
                return None
        raw = []
        for head, size in self.parts:
            if not message.startswith(head, position):
                return None
            position += len(head) + size
            raw.append(message[position - size : position])
        return self.layout, request_id, tuple(raw)


class Templates:
    """What was learnt from requests to one route table; a new table begins with none."""

    def __init__(self) -> None:
        # By the bytes before the id and the number of those behind it.
        self._known: dict[tuple[bytes, int], list[_Template]] = {}
        self._kinds: dict[object, int] = {}
        # The one that fitted last; the next request is often of the same client.
        self._last: _Template | None = None

    def recognise(self, message: bytes) -> Recognised | None:
        """Returns a message's parts if it is like one that was learnt, to the last byte."""
        if self._last is not None and (found := self._last.read(message)) is not None:
            return found
        try:
            begin, end = _id_span(message)
        except IndexError:
            return None
        for template in self._known.get((message[:begin], len(message) - end), ()):
            if (found := template.read(message)) is not None:
                self._last = template
                return found
        return None

    def learn(
        self,
        message: bytes,
        request: pb.ModelInferRequest,
        servable: Servable,
        role: str,
        outputs: tuple[str, ...],
        split: Split | None = None,
    ) -> Layout | None:
        """Keeps the template of a valid message that was parsed to `request`; returns its layout if it has one."""
        if not _plain(request) or len(self._known) >= MOST:
            return None
        try:
            begin, end = _id_span(message)
        except IndexError:
            return None
        parts = _parts(message, end, request)
        if parts is None or sum(len(head) for head, _ in parts) > MOST_HEAD:
            return None
        alike = self._known.setdefault((message[:begin], len(message) - end), [])
        if len(alike) >= MOST_ALIKE:
            return None
        layout = self._layout(request, servable, role, outputs, split)
        alike.append(_Template(layout, message[:begin], len(message) - end, parts))
        return layout

    def _layout(
        self,
        request: pb.ModelInferRequest,
        servable: Servable,
        role: str,
        outputs: tuple[str, ...],
        split: Split | None,
    ) -> Layout:
        shapes = tuple(tuple(tensor.shape) for tensor in request.inputs)
        names = tuple(tensor.name for tensor in request.inputs)
        dtypes = tuple(FIXED[tensor.datatype] for tensor in request.inputs)
        kind = (servable, role, names, dtypes, tuple(shape[1:] for shape in shapes), outputs)
        if kind not in self._kinds:
            self._kinds[kind] = next(_NUMBERS)
        rows = shapes[0][0] if shapes[0] and servable.signature.batched else 1
        return Layout(servable, role, names, dtypes, shapes, outputs, rows, self._kinds[kind], split=split)


def _id_span(message: bytes) -> tuple[int, int]:
    """Returns where the id's field begins and ends, both the same without one; IndexError if it is not in order."""
    if message[0] != MODEL_NAME or message[1] >= ONE_BYTE:
        raise IndexError
    begin = 2 + message[1]
    if message[begin] == MODEL_VERSION:
        if message[begin + 1] >= ONE_BYTE:
            raise IndexError
        begin += 2 + message[begin + 1]
    if message[begin] != ID:
        return begin, begin
    if message[begin + 1] >= ONE_BYTE:
        raise IndexError
    return begin, begin + 2 + message[begin + 1]


def _plain(request: pb.ModelInferRequest) -> bool:
    """Whether all that can vary in requests of this kind is the id and numbers that need no check."""
    return (
        not request.parameters
        and len(request.raw_input_contents) == len(request.inputs) > 0
        and all(t.datatype in FIXED and t.datatype != "BOOL" and not t.parameters for t in request.inputs)
        and not any(output.parameters for output in request.outputs)
    )


def _parts(message: bytes, end: int, request: pb.ModelInferRequest) -> tuple[tuple[bytes, int], ...] | None:
    """Takes the message apart from behind; None if its fields are not in the usual order."""
    position, parts = len(message), []
    for data in reversed(request.raw_input_contents):
        head = RAW + varint(len(data))
        position -= len(data) + len(head)
        if position < end or message[position : position + len(head) + len(data)] != head + data:
            return None
        parts.append((head, len(data)))
    parts.reverse()
    first, size = parts[0]
    parts[0] = (message[end:position] + first, size)
    return tuple(parts)
