"""Calls that no decent client makes, drawn from a seeded source so that a run can be repeated."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from raw_calls import SERVICE, request, typed

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors

INFER = SERVICE + "ModelInfer"
METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
OTHERS = ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
HUGE = (2**62, 2**63 - 1, 2**32, 2**31)
NUMBERS = (0, -1, 1, 3, 7, -(2**63), *HUGE)
NAMES = ("", "x", "y", "a", "b", "zzz", "x\n", "\0", "ü", "x" * 10_000, "'", "%s%n", "\x1b[31m", "../../etc/passwd")
VERSIONS = ("0", "-1", "1abc", "1 ", "01", "+1", "1e3", "9" * 30, "٣", "¹", "\0", "nan", "2147483648", "1\n")
KEYS = (
    *("priority", "timeout", "sequence_id", "sequence_start", "binary_data_output", "headers", "", "ü", "triton_x"),
    *("triton_enable_empty_final_response", "shared_memory_region", "shared_memory_byte_size", "classification"),
)
DATATYPES = (*tensors.DATATYPES, "", "fp32", "FLOAT", "TYPE_FP32", "FP8", "\0", "BYTES\n", "x" * 5000)
ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
# Of the scalar fields, by their type; any other is an integer of 64 bits.
VALUES: dict[int, Sequence[Any]] = {
    FieldDescriptor.TYPE_BYTES: (b"", b"\0", b"12345678", b"\xff" * 12, b"\x01\0\0\0a" * 3),
    FieldDescriptor.TYPE_BOOL: (False, True),
    FieldDescriptor.TYPE_FLOAT: (0.0, 1e30, float("nan"), float("-inf")),
    FieldDescriptor.TYPE_DOUBLE: (0.0, 1e300, float("nan"), float("-inf")),
    FieldDescriptor.TYPE_ENUM: (0, 1),
    FieldDescriptor.TYPE_UINT32: (0, 1, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 1, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (0, 300, -1, 2**31 - 1),
}
# What each model of the siege (`repository`) takes.
GOOD: dict[str, dict[str, Any]] = {
    "line": {"x": ROW},
    "sum": {"a": ROW, "b": ROW},
    "texts": {"x": np.array([["", "a", "grün"]], object)},
    "truths": {"x": np.array([[True, False, True]])},
    "small": {"x": np.array([[-128, 0, 127]], np.int8)},
    "scalar": {"x": np.array(1, np.float32)},
    "free": {"x": ROW},
    "raising": {"x": np.zeros((1, 3), np.float32)},
}
VALUES[FieldDescriptor.TYPE_STRING] = (*NAMES, *VERSIONS, *DATATYPES, *GOOD)


@dataclass(frozen=True)
class Forgery:
    """A call: its path, what goes into its DATA, and header fields that replace or follow the usual ones."""

    kind: str
    path: bytes
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()


def forgery(chance: random.Random) -> Forgery:
    """Returns the next call."""
    name = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    path, body, fields = KINDS[name][1](chance)
    return Forgery(name, path.encode(), body, tuple(fields))


Made = tuple[str, bytes, Sequence[tuple[bytes, bytes]]]


def framed(message: bytes, flag: int = 0) -> bytes:
    """Returns a length-prefixed message."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def _spoilt_request(chance: random.Random) -> Made:
    made = _good(chance)
    for _ in range(chance.randint(1, 3)):
        chance.choice(SPOILERS)(made, chance)
    return INFER, framed(made.SerializeToString()), ()


def _spoilt_bytes(chance: random.Random) -> Made:
    return INFER, framed(_changed(_good(chance).SerializeToString(), chance)), ()


def _noise(chance: random.Random) -> Made:
    return _path(chance), framed(chance.randbytes(chance.choice((1, 3, 30, 300, 3000)))), ()


def _any_message(chance: random.Random) -> Made:
    method = chance.choice(METHODS)
    message = _filled(method.input_type, chance)
    return SERVICE + method.name, framed(message.SerializeToString()), ()


def _nested(chance: random.Random) -> Made:
    """Groups within groups, maps that repeat one key, a message within itself."""
    depth = chance.choice((10, 99, 101, 5000))
    body = chance.choice(
        (
            b"\x7b" * depth + b"\x7c" * depth,
            b"\x7b" * depth,
            b"\x22\x07\x0a\x01k\x12\x02\x08\x01" * depth,
            b"\x22\x00" * depth,
            b"\x2a\x00" * depth,
            _good(chance).SerializeToString() * chance.randint(2, 5),
        )
    )
    return INFER, framed(body), ()


def _misframed(chance: random.Random) -> Made:
    """A message whose prefix lies, is cut off, comes twice or not at all."""
    message = _good(chance).SerializeToString()
    whole = framed(message)
    body = chance.choice(
        (
            b"",
            whole[:3],
            whole[: chance.randrange(5, len(whole))],
            whole + whole,
            whole + chance.randbytes(3),
            framed(message, chance.randint(1, 255)),
            b"\0" + chance.choice((0, 2**31, 2**32 - 1, len(message) - 1)).to_bytes(4, "big") + message,
            chance.randbytes(40),
        )
    )
    # A call that is cut off within its prefix, grpc-core answers only when its time is up.
    return _path(chance), body, ((b"grpc-timeout", b"200m"),)


def _compressed(chance: random.Random) -> Made:
    encoding = chance.choice((b"gzip", b"deflate", b"identity", b"br", b"", b"gzip, gzip", b"x" * 300))
    message = _good(chance).SerializeToString()
    packed = gzip.compress(chance.choice((message, bytes(1 << 20))))
    body = chance.choice((packed, packed[:-3], packed + packed, chance.randbytes(30), b""))
    return INFER, framed(body, 1), ((b"grpc-encoding", encoding),)


def _odd_headers(chance: random.Random) -> Made:
    timeouts = (b"", b"1", b"-1S", b"1s", b"123456789S", b"99999999H", b"0n", b"1.5S", b"S", b"1 S")
    fields = (
        (b"grpc-timeout", chance.choice(timeouts)),
        (b"content-type", chance.choice((b"text/html", b"application/grpc-web", b"application/grpcx", b""))),
        (b"traceparent", chance.choice((b"x" * 5000, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff\xfe"))),
        (b"tracestate", chance.randbytes(20).hex().encode() * chance.choice((1, 100))),
        (b"some-bin", chance.choice((b"===", b"!!!", b"a", chance.randbytes(30).hex().encode()))),
        (b"te", b"gzip"),
        (b":method", chance.choice((b"GET", b"PUT", b"OPTIONS"))),
        (b"x-large", b"v" * chance.choice((8000, 17_000, 40_000))),
    )
    return INFER, framed(_good(chance).SerializeToString()), chance.sample(fields, chance.randint(1, 2))


def _no_method(chance: random.Random) -> Made:
    names = (
        "/",
        "//",
        "/inference.GRPCInferenceService",
        "/x/y",
        "/" + "z" * 9000,
        SERVICE,
        "*",
        SERVICE + "modelinfer",
    )
    return chance.choice(names), framed(chance.randbytes(10)), ()


KINDS: dict[str, tuple[int, Callable[[random.Random], Made]]] = {
    "spoilt request": (50, _spoilt_request),
    "spoilt bytes": (12, _spoilt_bytes),
    "noise": (8, _noise),
    "any message": (12, _any_message),
    "nested": (3, _nested),
    "misframed": (6, _misframed),
    "compressed": (3, _compressed),
    "odd headers": (4, _odd_headers),
    "no method": (2, _no_method),
}


def _path(chance: random.Random) -> str:
    return chance.choice((INFER, *(SERVICE + method.name for method in METHODS), *OTHERS))


def _good(chance: random.Random) -> pb.ModelInferRequest:
    model = chance.choice(list(GOOD))
    return chance.choice((request, typed))(model, GOOD[model], id=chance.choice(("", "1", "ü", "i" * 500)))


def _changed(message: bytes, chance: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[place : place + 1] = chance.randbytes(1)
            case 1:
                del data[place : place + chance.randint(1, 10)]
            case 2:
                data[place:place] = chance.randbytes(chance.randint(1, 10))
            case _:
                data[place:place] = bytes((chance.randrange(128), 0xFF, 0xFF, 0xFF, chance.randrange(128)))
    return bytes(data)


def _filled(kind: Descriptor, chance: random.Random, depth: int = 0) -> Message:
    """Returns a message of any type with some of its fields set to what nobody would."""
    made = GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.5 or depth > 4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(made, field, chance, depth)
        elif field.is_repeated:
            getattr(made, field.name).extend(_value(field, chance, depth) for _ in range(chance.randint(0, 3)))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(_value(field, chance, depth))
        else:
            setattr(made, field.name, _value(field, chance, depth))
    return made


def _fill_map(made: Message, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    assert field.message_type is not None
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    for _ in range(chance.randint(0, 3)):
        place = chance.choice(KEYS) if key.type == FieldDescriptor.TYPE_STRING else 1
        if value.message_type is not None:
            getattr(made, field.name)[place].CopyFrom(_value(value, chance, depth))
        else:
            getattr(made, field.name)[place] = _value(value, chance, depth)


def _value(field: FieldDescriptor, chance: random.Random, depth: int) -> Any:
    if field.message_type is not None:
        return _filled(field.message_type, chance, depth + 1)
    return chance.choice(VALUES.get(field.type, NUMBERS))


def _parameter(chance: random.Random) -> pb.InferParameter:
    value = chance.choice(
        (
            {},
            {"bool_param": True},
            {"int64_param": chance.choice(NUMBERS)},
            {"string_param": chance.choice(NAMES)},
            {"double_param": float("nan")},
            {"uint64_param": 2**64 - 1},
        )
    )
    return pb.InferParameter(**value)


Request = pb.ModelInferRequest


def _spoil_shape(made: Request, chance: random.Random) -> None:
    for tensor in made.inputs[:1]:
        tensor.shape[:] = chance.choice(
            (
                [chance.choice(NUMBERS), 3],
                [chance.choice(NUMBERS) for _ in range(chance.randint(0, 5))],
                [1] * chance.choice((3, 64, 65, 3000)),
                [0, chance.choice(HUGE)],
                [2**21, 2**21, 2**22],
                list(tensor.shape)[::-1],
            )
        )


def _spoil_datatype(made: Request, chance: random.Random) -> None:
    for tensor in made.inputs[:1]:
        tensor.datatype = chance.choice(DATATYPES)


def _spoil_name(made: Request, chance: random.Random) -> None:
    for tensor in made.inputs[:1]:
        tensor.name = chance.choice(NAMES)


def _spoil_model(made: Request, chance: random.Random) -> None:
    made.model_name = chance.choice((*NAMES, *GOOD))
    made.model_version = chance.choice(("", *VERSIONS))


def _spoil_raw(made: Request, chance: random.Random) -> None:
    raw = made.raw_input_contents
    match chance.randrange(5):
        case 0:
            raw.append(chance.randbytes(chance.randint(0, 40)))
        case 1:
            raw[:] = raw[1:]
        case 2:
            raw[:] = [data[: chance.randrange(len(data) + 1)] for data in raw]
        case 3:
            raw[:] = [chance.randbytes(len(data)) for data in raw]
        case _:
            raw[:] = [data + chance.randbytes(chance.randint(1, 9)) for data in raw]


def _spoil_contents(made: Request, chance: random.Random) -> None:
    for tensor in made.inputs[:1]:
        field = chance.choice(tensor.contents.DESCRIPTOR.fields)
        getattr(tensor.contents, field.name).extend(_value(field, chance, 0) for _ in range(chance.randint(0, 5)))


def _spoil_parameters(made: Request, chance: random.Random) -> None:
    holder: Any = chance.choice((made, *made.inputs, *made.outputs))
    for _ in range(chance.choice((1, 2, 300))):
        holder.parameters[chance.choice((*KEYS, str(chance.random())))].CopyFrom(_parameter(chance))


def _spoil_outputs(made: Request, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 500))):
        made.outputs.add(name=chance.choice(NAMES))


def _spoil_inputs(made: Request, chance: random.Random) -> None:
    if made.inputs and chance.random() < 0.7:
        made.inputs.extend([made.inputs[0]] * chance.choice((1, 500)))
    else:
        del made.inputs[:]


def _spoil_id(made: Request, chance: random.Random) -> None:
    made.id = chance.choice(("x" * 70_000, "\0", "ü" * 100, "\n"))


SPOILERS: tuple[Callable[[Request, random.Random], None], ...] = (
    *(_spoil_shape, _spoil_shape, _spoil_datatype, _spoil_name, _spoil_model, _spoil_raw, _spoil_raw),
    *(_spoil_contents, _spoil_parameters, _spoil_outputs, _spoil_inputs, _spoil_id),
)
