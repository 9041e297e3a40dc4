"""The parameters of a request: which have a meaning, in which form, and what they say.

Those with another name are the model's or nobody's, and passed over; only the prefixes of Triton and gnomon are
reserved, so that what is meant for the server is never ignored in silence.
"""

from __future__ import annotations

from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import InvalidRequest, quoted
from gnomon_server.wire.record import ALONE, Place

EXPLAIN: Final = "gnomon_explain"
EMPTY_FINAL: Final = "triton_enable_empty_final_response"
# Parameters that carry a meaning, with the fields that they may use.
MEANINGS: Final = {
    "binary_data_output": ("bool_param",),
    "sequence_id": ("int64_param", "string_param", "uint64_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("uint64_param", "int64_param"),
    "timeout": ("int64_param",),
    EMPTY_FINAL: ("bool_param",),
    EXPLAIN: ("bool_param",),
}
# UTF-8 bytes of a sequence's id that is a text, as in Triton.
MOST_SEQUENCE_BYTES: Final = 128
# Prefixes that nobody else may use, with what is known of each.
RESERVED: Final = {"triton_": [EMPTY_FINAL], "gnomon_": [EXPLAIN]}


def check(request: pb.ModelInferRequest) -> None:
    """Raises InvalidRequest for the first parameter that cannot be heeded."""
    for name, parameter in request.parameters.items():
        allowed = MEANINGS.get(name)
        if allowed is None:
            _check_prefix(name)
        field = parameter.WhichOneof("parameter_choice")
        if field is None:
            raise InvalidRequest(f"parameter {quoted(name)}: expected a value, received none")
        if allowed is None:
            continue
        if field not in allowed:
            raise InvalidRequest(f"parameter '{name}': expected {' or '.join(allowed)}, received {field}")
        value = getattr(parameter, field)
        if name == "sequence_id" and field == "string_param" and (size := len(value.encode())) > MOST_SEQUENCE_BYTES:
            most = f"expected at most {MOST_SEQUENCE_BYTES} bytes"
            raise InvalidRequest(f"parameter 'sequence_id': {most}, received {size}")
        if name in ("priority", "timeout") and value < 0:
            raise InvalidRequest(f"parameter '{name}': expected >= 0, received {value}")


def wants_typed(request: pb.ModelInferRequest) -> bool:
    """Whether the answer may be in typed contents: the request came in such, and does not want raw ones."""
    if "binary_data_output" not in request.parameters or request.parameters["binary_data_output"].bool_param:
        return False
    return not request.raw_input_contents and any(tensor.HasField("contents") for tensor in request.inputs)


def wants_explanation(request: pb.ModelInferRequest) -> bool:
    """Whether the answer is to say which version gave it, and to which shadows the request goes."""
    return EXPLAIN in request.parameters and request.parameters[EXPLAIN].bool_param


def priority(request: pb.ModelInferRequest) -> int:
    """Returns the priority, of which 1 is the highest; 0 for none."""
    if "priority" not in request.parameters:
        return 0
    given = request.parameters["priority"]
    return given.uint64_param or given.int64_param


def place(request: pb.ModelInferRequest) -> Place:
    """Returns where a request stands in its sequence; ALONE if it has no id of one, or 0, or an empty one."""
    if "sequence_id" not in request.parameters:
        return ALONE
    given = request.parameters["sequence_id"]
    # 7 and "7" are two sequences. Triton takes an int64 as a uint64, and so is -1 the largest one.
    number = given.uint64_param or given.int64_param % (1 << 64)
    key = f"#{number}" if number else given.string_param and f"${given.string_param}"
    if not key:
        return ALONE
    return Place(key.encode(), _is_set(request, "sequence_start"), _is_set(request, "sequence_end"))


def _is_set(request: pb.ModelInferRequest, name: str) -> bool:
    return name in request.parameters and request.parameters[name].bool_param


def timeout(request: pb.ModelInferRequest) -> float | None:
    """Returns the seconds within which the run must begin, or None for any."""
    microseconds = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    return microseconds / 1e6 if microseconds else None


def _check_prefix(name: str) -> None:
    for prefix, known in RESERVED.items():
        if name.startswith(prefix):
            raise InvalidRequest(f"parameter {quoted(name)}: expected one of {known}, received {quoted(name)}")
